"""The operators torch.ops.flashattn.*: schemas, fakes, vmap, and the gradient of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import passes
from .gradients import (
    merge_gradients,
    no_double_backward,
    operator_gradients,
    operator_save,
    save_merge,
)

_OPTIONS = (
    "Tensor? alibi_slopes, Tensor? bias, Tensor? sinks, Tensor? dropout_state,"
    " Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, Tensor? seqused_q, Tensor? seqused_k,"
    " SymInt max_seqlen_q, SymInt max_seqlen_k, float? scale, bool causal,"
    " SymInt window_left, SymInt window_right, float softcap, float dropout_p,"
    " bool deterministic, bool batch_invariant, int family, int num_threads"
)
_library = torch.library.Library("flashattn", "DEF")
_library.define(f"forward(Tensor q, Tensor k, Tensor v, {_OPTIONS}) -> (Tensor, Tensor)")
_library.define(f"forward_out(Tensor q, Tensor k, Tensor v, Tensor(a!) out, {_OPTIONS}) -> Tensor")
_library.define(
    "backward(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse,"
    f" bool needs_dbias, bool needs_dsinks, {_OPTIONS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define("merge(Tensor out_a, Tensor lse_a, Tensor out_b, Tensor lse_b) -> (Tensor, Tensor)")


def _forward(q: Tensor, k: Tensor, v: Tensor, *options: Any) -> tuple[Tensor, Tensor | None]:
    return passes.forward(q, k, v, options)


def _fake_forward(q: Tensor, k: Tensor, v: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    return passes.new_out(q, v), passes.new_lse(q)


def _forward_out(q: Tensor, k: Tensor, v: Tensor, out: Tensor, *options: Any) -> Tensor | None:
    return passes.forward_out(q, k, v, out, options)


def _fake_forward_out(q: Tensor, k: Tensor, v: Tensor, out: Tensor, *options: Any) -> Tensor:
    return passes.new_lse(q)


def _backward(
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
) -> tuple[Tensor, ...]:
    of = (dout, q, k, v, out, lse)
    return _nothing_for_none(q, passes.backward(of, dlse, needs_dbias, needs_dsinks, options))


def _fake_backward(
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
) -> tuple[Tensor, ...]:
    return _nothing_for_none(
        q, passes.gradient_buffers(q, k, v, needs_dbias, needs_dsinks, options)
    )


def _nothing_for_none(q: Tensor, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    """An operator returns tensors: of size 0 where nobody wants the gradient."""
    return tuple(q.new_empty((0,)) if g is None else g for g in gradients)


def _fake_merge(
    out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor
) -> tuple[Tensor, Tensor]:
    return out_a.new_empty(out_a.shape), lse_a.new_empty(lse_a.shape, dtype=torch.float32)


def _one_at_a_time(name: str) -> Any:
    """vmap: the operator for each element of the mapped dimension."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        operator = getattr(torch.ops.flashattn, name)
        results = [
            operator(*(a if d is None else a.select(d, n) for a, d in zip(args, in_dims)))
            for n in range(info.batch_size)
        ]
        return tuple(map(torch.stack, zip(*results))), (0,) * len(results[0])

    return rule


for _name, _function, _fake in (
    ("forward", _forward, _fake_forward),
    ("forward_out", _forward_out, _fake_forward_out),
    ("backward", _backward, _fake_backward),
    ("merge", passes.merge, _fake_merge),
):
    _library.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"flashattn::{_name}", _fake, lib=_library)
for _name in ("forward", "backward", "merge"):
    torch.library.register_vmap(f"flashattn::{_name}", _one_at_a_time(_name), lib=_library)
torch.library.register_autograd(
    "flashattn::forward", operator_gradients, setup_context=operator_save, lib=_library
)
torch.library.register_autograd("flashattn::backward", no_double_backward, lib=_library)
torch.library.register_autograd(
    "flashattn::merge", merge_gradients, setup_context=save_merge, lib=_library
)
