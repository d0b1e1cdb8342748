"""The operators for tensors without memory (meta tensors, a compiler's fakes): they return
results of the right shapes, and raise the errors that real tensors would raise."""

from __future__ import annotations

from typing import Any

import torch
import tvm_ffi
from torch import Tensor

from .. import _binding
from .._options import TENSORS, Options
from . import passes


def forward(q: Tensor, k: Tensor, v: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    out, lse = passes.new_out(q, v), passes.new_lse(q)
    _check(_binding.check_forward, (q, k, v, out, lse), options)
    return out, lse


def forward_out(q: Tensor, k: Tensor, v: Tensor, out: Tensor, *options: Any) -> Tensor:
    lse = passes.new_lse(q)
    _check(_binding.check_forward, (q, k, v, out, lse), options)
    return lse


def backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    needs_dbias: bool,
    needs_dsinks: bool,
    *options: Any,
) -> tuple[Tensor | None, ...]:
    gradients = passes.gradient_buffers(q, k, v, needs_dbias, needs_dsinks, options)
    tensors = (dout, q, k, v, out, lse, *gradients[:3], dlse, *gradients[3:])
    _check(_binding.check_backward, tensors, options)
    return gradients


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    if out_a.dim() not in (3, 4):
        raise ValueError(
            f"out_a: has the shape {list(out_a.shape)}; expected 4 dimensions,"
            " [batch, seqlen, heads, head_dim] (or 3, packed)"
        )
    *batch, rows, heads, _ = out_a.shape
    statistics = "[batch, heads, seqlen]" if batch else "[heads, tokens]"
    for name, lse in (("lse_a", lse_a), ("lse_b", lse_b)):
        _need_like(name, lse, torch.float32, (*batch, heads, rows), statistics)
    _need_like("out_b", out_b, out_a.dtype, tuple(out_a.shape), "out_a's shape")
    return passes.new_merged(out_a, lse_a)


def _need_like(
    name: str, t: Tensor, dtype: torch.dtype, shape: tuple[Any, ...], words: str
) -> None:
    if t.dtype != dtype:
        allowed = str(dtype).removeprefix("torch.")
        raise TypeError(
            f"{name}: has dtype {str(t.dtype).removeprefix('torch.')}; allowed: {allowed}"
        )
    if t.dim() != len(shape) or tuple(t.shape) != shape:
        raise ValueError(f"{name}: has the shape {list(t.shape)}; expected {words} = {list(shape)}")


def _check(check: Any, tensors: tuple[Tensor | None, ...], options: tuple[Any, ...]) -> None:
    """Raises what the call would. A call with a symbol is checked when the operator runs."""
    given = Options._make(options)
    given = given._replace(
        max_seqlen_q=given.max_seqlen_q or 0, max_seqlen_k=given.max_seqlen_k or 0
    )
    every: tuple[Any, ...] = (*tensors, *given[:TENSORS])
    extents = [n for t in every if t is not None for n in t.shape]
    symbols = (torch.SymInt, torch.SymFloat, torch.SymBool)
    if not any(isinstance(n, symbols) for n in (*extents, *given[TENSORS:])):
        described = [None if t is None else _described(t) for t in every]
        check(False, *described, *given[TENSORS:])


def _described(t: Tensor) -> tvm_ffi.Shape:
    if t.dtype.is_complex:
        code, bits = 5, 8 * t.dtype.itemsize
    else:
        dtype = tvm_ffi.dtype(str(t.dtype).removeprefix("torch."))
        code, bits = dtype.type_code, dtype.bits
    return tvm_ffi.Shape((code, bits, *t.shape))
