"""The passes on torch tensors: they allocate the outputs and call the binding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _binding
from .._options import TENSORS, Options, has_tensors
from .checks import refuse_capture

_contiguous = torch.contiguous_format


def dense(t: Tensor | None) -> Tensor | None:
    """A copy where the last stride is not 1, as the library needs it."""
    # is_contiguous is asked first: it takes a third of the time of dim and stride.
    return t if t is None or t.is_contiguous() or t.stride(-1) == 1 else t.contiguous()


def longest(cu_seqlens: Tensor) -> int:
    """The longest of packed sequences. The library checks the rest of cu_seqlens."""
    refuse_capture("cu_seqlens (without max_seqlen)", cu_seqlens)
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2:
        return 0
    return max(0, int((cu_seqlens[1:] - cu_seqlens[:-1]).max()))


def with_maxima(options: tuple[Any, ...]) -> Options:
    """The options of a pass that runs: a max_seqlen that was None is read from cu_seqlens."""
    given = Options._make(options)
    if given.max_seqlen_q is None:
        given = given._replace(max_seqlen_q=longest(given.cu_seqlens_q))
    if given.max_seqlen_k is None:
        given = given._replace(max_seqlen_k=longest(given.cu_seqlens_k))
    return given


def _dense_options(options: tuple[Any, ...]) -> tuple[Any, ...]:
    if not has_tensors(options):
        return options
    known: tuple[Any, ...] = with_maxima(options)
    return (*map(dense, known[:TENSORS]), *known[TENSORS:])


def new_out(q: Tensor, v: Tensor) -> Tensor:
    """[batch, seqlen, heads, head_dim of v], or packed [tokens, heads, head_dim of v]; dense."""
    if q.shape[-1] == v.shape[-1]:  # empty_like takes half the time of new_empty
        return torch.empty_like(q, memory_format=_contiguous)
    return q.new_empty((*q.shape[:-1], v.shape[-1]))


def new_lse(q: Tensor) -> Tensor:
    """[batch, heads, seqlen], or packed [heads, tokens]."""
    *batch, rows, heads, _ = q.shape
    # torch reads a size faster from numbers than from a tuple.
    return torch.empty(*batch, heads, rows, dtype=torch.float32, device=q.device)


def forward_out(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    options: tuple[Any, ...],
    needs_lse: bool = True,
) -> Tensor | None:
    """Returns lse."""
    lse = new_lse(q) if needs_lse else None
    inputs = dense(q), dense(k), dense(v)
    _binding.forward(False, *inputs, out, lse, *_dense_options(options))
    return lse


def forward(
    q: Tensor, k: Tensor, v: Tensor, options: tuple[Any, ...], needs_lse: bool = True
) -> tuple[Tensor, Tensor | None]:
    out = new_out(q, v)
    return out, forward_out(q, k, v, out, options, needs_lse)


def prepare(q: Tensor, k: Tensor, v: Tensor, options: tuple[Any, ...]) -> None:
    """Compiles and loads what forward will need, with lse and without."""
    inputs = dense(q), dense(k), dense(v)
    out, options = new_out(q, v), _dense_options(options)
    for lse in (new_lse(q), None):
        _binding.prepare(False, *inputs, out, lse, *options)


def backward(
    tensors: tuple[Tensor, ...],
    dlse: Tensor | None,
    needs_dbias: bool,
    needs_dsinks: bool,
    options: tuple[Any, ...],
) -> tuple[Tensor | None, ...]:
    """dq, dk, dv, dbias, dsinks of tensors = (dout, q, k, v, out, lse)."""
    dout, q, k, v, out, lse = tensors
    gradients = gradient_buffers(q, k, v, needs_dbias, needs_dsinks, options)
    _binding.backward(
        False,
        dense(dout),
        dense(q),
        dense(k),
        dense(v),
        dense(out),
        dense(lse),
        *gradients[:3],
        dense(dlse),
        *gradients[3:],
        *_dense_options(options),
    )
    return gradients


def gradient_buffers(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    needs_dbias: bool,
    needs_dsinks: bool,
    options: tuple[Any, ...],
) -> tuple[Tensor | None, ...]:
    given = Options._make(options)
    return (
        # As in new_out.
        torch.empty_like(q, memory_format=_contiguous),
        torch.empty_like(k, memory_format=_contiguous),
        torch.empty_like(v, memory_format=_contiguous),
        given.bias.new_empty(given.bias.shape) if needs_dbias else None,
        given.sinks.new_empty(given.sinks.shape) if needs_dsinks else None,
    )


def new_merged(out_a: Tensor, lse_a: Tensor) -> tuple[Tensor, Tensor]:
    return out_a.new_empty(out_a.shape), lse_a.new_empty(lse_a.shape, dtype=torch.float32)


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    out, lse = new_merged(out_a, lse_a)
    _binding.merge(False, *map(dense, (out_a, lse_a, out_b, lse_b)), out, lse)
    return out, lse
