"""Other builds of this library beside the installed one, by their C ABI (fa/fa.h): what a change
gave, in one process. Their libfa.so are loaded side by side."""

import ctypes
from ctypes import (
    POINTER,
    Structure,
    byref,
    c_double,
    c_int32,
    c_int64,
    c_size_t,
    c_uint8,
    c_uint64,
)
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cells import Cell
from contenders import Attend, Contender, bounds_of
from torch import Tensor

_CODES = {
    torch.float32: (2, 32),
    torch.float16: (2, 16),
    torch.bfloat16: (4, 16),
    torch.int32: (0, 32),
}
_DEVICES = {"cpu": 1, "cuda": 2}
_FAMILIES = {"auto": 0, "sm80": 1, "sm90": 2}


class _Tensor(Structure):
    """fa_tensor"""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )

    @classmethod
    def of(cls, t: Tensor) -> "_Tensor":
        extents = c_int64 * t.dim()
        return cls(
            t.data_ptr(),
            _DEVICES[t.device.type],
            t.device.index or 0,
            t.dim(),
            *_CODES[t.dtype],
            1,
            extents(*t.shape),
            extents(*t.stride()),
            0,
        )


class _Options(Structure):
    """fa_options"""

    _fields_ = (
        ("size", c_size_t),
        ("has_scale", c_int32),
        ("causal", c_int32),
        ("scale", c_double),
        ("window_left", c_int64),
        ("window_right", c_int64),
        ("softcap", c_double),
        ("dropout_p", c_double),
        ("dropout_seed", c_uint64),
        ("dropout_offset", c_uint64),
        *((name, POINTER(_Tensor)) for name in ("state", "alibi", "bias", "sinks")),
        *((name, POINTER(_Tensor)) for name in ("cu_seqlens_q", "cu_seqlens_k")),
        ("max_seqlen_q", c_int64),
        ("max_seqlen_k", c_int64),
        *((name, POINTER(_Tensor)) for name in ("seqused_q", "seqused_k")),
        *((name, c_int32) for name in ("deterministic", "batch_invariant", "threads", "family")),
    )

    @classmethod
    def of(cls, cell: Cell, device: str) -> "_Options":
        options = cls(size=ctypes.sizeof(cls), causal=cell.causal, window_left=-1, window_right=-1)
        options.softcap = cell.softcap
        options.threads = torch.get_num_threads()
        if cell.window:
            options.window_left = cell.window
        if cell.lengths:
            options.bounds = bounds_of(cell, device)  # kept as long as their addresses
            options.cu_seqlens_q = options.cu_seqlens_k = ctypes.pointer(_Tensor.of(options.bounds))
            options.max_seqlen_q = options.max_seqlen_k = max(cell.lengths)
        return options


class _ForwardArgs(Structure):
    """fa_forward_args"""

    _fields_ = (
        ("size", c_size_t),
        *((name, POINTER(_Tensor)) for name in ("q", "k", "v", "out", "lse")),
    )


class _BackwardArgs(Structure):
    """fa_backward_args; the last three are left null."""

    _fields_ = (
        ("size", c_size_t),
        *((name, POINTER(_Tensor)) for name in ("dout", "q", "k", "v", "out", "lse")),
        *((name, POINTER(_Tensor)) for name in ("dq", "dk", "dv", "dlse", "dbias", "dsinks")),
    )


_ARGS = {"forward": _ForwardArgs, "backward": _BackwardArgs}


class Build:
    """A libfa.so. Raises LookupError where there is none."""

    def __init__(self, path: str) -> None:
        try:
            self._library = ctypes.CDLL(str(Path(path).resolve()))
            self._library.fa_last_error.restype = ctypes.c_char_p
        except (OSError, AttributeError) as error:
            raise LookupError(f"--builds {path}: {error}") from None

    def call(self, name: str, *arguments: object) -> None:
        if getattr(self._library, name)(*arguments) != 0:
            raise RuntimeError(self._library.fa_last_error().decode())


class _Pass:
    """One pass of a cell, planned at its first call, for the shapes and strides of its tensors. A
    plan lives as long as the process."""

    def __init__(self, build: Build, name: str, options: _Options, device: str) -> None:
        self._build = build
        self._name = name
        self._options = options
        self._device = device
        self._plan = ctypes.c_void_p()
        self._room = torch.empty(0)

    def __call__(self, *tensors: Tensor) -> None:
        args = _ARGS[self._name](0, *(ctypes.pointer(_Tensor.of(t)) for t in tensors))
        args.size = ctypes.sizeof(args)
        if not self._plan:
            self._make_plan(args)
        on_cuda = self._device == "cuda"
        self._build.call(
            f"fa_plan_run_{self._name}",
            self._plan,
            byref(args),
            byref(self._options),
            ctypes.c_void_p(self._room.data_ptr()),
            c_size_t(self._room.numel()),
            ctypes.c_void_p(torch.cuda.current_stream().cuda_stream if on_cuda else None),
        )

    def _make_plan(self, args: Structure) -> None:
        size = c_size_t()
        plan = (byref(args), byref(self._options), byref(self._plan))
        self._build.call(f"fa_plan_{self._name}", *plan)
        self._build.call("fa_plan_prepare", self._plan)
        self._build.call("fa_plan_workspace_bytes", self._plan, byref(size))
        room = torch.empty(max(size.value, 1) + 64, dtype=torch.uint8, device=self._device)
        self._room = room[-room.data_ptr() % 64 :]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, forward: _Pass, backward: _Pass, *qkv: Tensor) -> Tensor:
        out, lse = _run_forward(forward, *qkv)
        ctx.backward = backward
        ctx.save_for_backward(*qkv, out, lse)
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        gradients = tuple(torch.empty_like(t) for t in (q, k, v))
        ctx.backward(dout, q, k, v, out, lse, *gradients)
        return (None, None, *gradients)


def _run_forward(forward: _Pass, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    tokens_first = q.shape[:-1]  # LSE has the heads before the rows
    shape = (*tokens_first[:-2], tokens_first[-1], tokens_first[-2])
    lse = torch.empty(shape, dtype=torch.float32, device=q.device)
    forward(q, k, v, out, lse)
    return out, lse


def _bind(build: Build, device: str, family: str, cell: Cell) -> Attend:
    options = _Options.of(cell, device)
    options.family = _FAMILIES[family]
    forward, backward = (_Pass(build, name, options, device) for name in _ARGS)
    if cell.needs_gradients:
        return partial(_Attention.apply, forward, backward)
    return lambda q, k, v: _run_forward(forward, q, k, v)[0]


def build_contender(device: str, family: str, name: str, path: str) -> Contender:
    """`name` in the tables. Raises LookupError."""
    return Contender(name, "torch", partial(_bind, Build(path), device, family))
