"""Other builds of this library beside the installed one, by their C ABI (fa/fa.h): what a change
gave, in one process. Their libfa.so are loaded side by side. Forward passes only."""

import ctypes
from collections.abc import Callable
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
from pathlib import Path

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

    @classmethod
    def of(cls, *tensors: Tensor) -> "_ForwardArgs":
        return cls(ctypes.sizeof(cls), *(ctypes.pointer(_Tensor.of(t)) for t in tensors))


class Build:
    """A libfa.so. Raises LookupError where there is none."""

    def __init__(self, path: str) -> None:
        try:
            self._library = ctypes.CDLL(str(Path(path).resolve()))
            self._library.fa_last_error.restype = ctypes.c_char_p
        except (OSError, AttributeError) as error:
            raise LookupError(f"--builds {path}: {error}") from None

    def _call(self, name: str, *arguments: object) -> None:
        if getattr(self._library, name)(*arguments) != 0:
            raise RuntimeError(self._library.fa_last_error().decode())

    def bind(self, device: str, cell: Cell) -> Attend:
        """Plans at the first call, for its shapes and strides."""
        options = _Options.of(cell, device)
        run: Callable[[_ForwardArgs], None] | None = None

        def planned(args: _ForwardArgs) -> Callable[[_ForwardArgs], None]:
            plan, size = ctypes.c_void_p(), c_size_t()  # the plan lives as long as the process
            self._call("fa_plan_forward", byref(args), byref(options), byref(plan))
            self._call("fa_plan_prepare", plan)
            self._call("fa_plan_workspace_bytes", plan, byref(size))
            room = torch.empty(max(size.value, 1) + 64, dtype=torch.uint8, device=device)
            aligned = room[-room.data_ptr() % 64 :]

            def run_plan(args: _ForwardArgs) -> None:
                stream = torch.cuda.current_stream().cuda_stream if device == "cuda" else None
                memory = ctypes.c_void_p(aligned.data_ptr())
                self._call(
                    "fa_plan_run_forward",
                    plan,
                    byref(args),
                    byref(options),
                    memory,
                    size,
                    ctypes.c_void_p(stream),
                )

            return run_plan

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            nonlocal run
            out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
            lse = (q.shape[1], q.shape[0]) if cell.lengths else (q.shape[0], q.shape[2], q.shape[1])
            sums = torch.empty(lse, dtype=torch.float32, device=q.device)
            args = _ForwardArgs.of(q, k, v, out, sums)
            run = run or planned(args)
            run(args)
            return out

        return attend


def _forward_only(cell: Cell) -> str | None:
    return "is timed forward only" if cell.needs_gradients else None


def build_contender(device: str, name: str, path: str) -> Contender:
    """`name` in the tables. Raises LookupError."""
    build = Build(path)
    return Contender(name, "torch", lambda cell: build.bind(device, cell), lack=_forward_only)
