"""The operators torch.ops.flashattn.*: schemas, fakes, vmap, and the gradient of each."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from .._options import KINDS, TENSOR_KINDS, Length
from . import fakes, passes
from .gradients import (
    merge_gradients,
    no_double_backward,
    operator_gradients,
    operator_save,
    save_merge,
)

# What a schema calls the kinds of options that are no tensors.
_TYPES: dict[Any, str] = {
    Length | None: "SymInt?",
    Length: "SymInt",
    int: "int",
    float | None: "float?",
    float: "float",
    bool: "bool",
}
OPTIONS = ", ".join(
    f"{'Tensor?' if name in TENSOR_KINDS else _TYPES[kind]} {name}" for name, kind in KINDS.items()
)
_library = torch.library.Library("flashattn", "DEF")


def register(schema: str, function: Any, fake: Any, vmap: bool = True) -> None:
    """An operator of all devices."""
    _library.define(schema)
    name = schema.partition("(")[0]
    _library.impl(name, function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"flashattn::{name}", fake, lib=_library)
    if vmap:
        rule = _one_at_a_time(name, fake)
        torch.library.register_vmap(f"flashattn::{name}", rule, lib=_library)


def _forward(q: Tensor, k: Tensor, v: Tensor, *options: Any) -> tuple[Tensor, Tensor | None]:
    return passes.forward(q, k, v, options)


def _forward_out(q: Tensor, k: Tensor, v: Tensor, out: Tensor, *options: Any) -> Tensor | None:
    return passes.forward_out(q, k, v, out, options)


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


def _fake_backward(*args: Any) -> tuple[Tensor, ...]:
    return _nothing_for_none(args[2], fakes.backward(*args))


def _nothing_for_none(q: Tensor, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
    """Tensors of size 0 for gradients that are not wanted: an operator cannot return None."""
    return tuple(q.new_empty((0,)) if g is None else g for g in gradients)


def _select(n: int, t: Tensor, dim: int) -> Tensor:
    return t.select(dim, n)


def _one_at_a_time(name: str, fake: Any) -> Any:
    """A vmap rule: calls the operator once for each element of the mapped dimension."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        def run(function: Any, element: Any) -> tuple[Tensor, ...]:
            results = function(*(a if d is None else element(a, d) for a, d in zip(args, in_dims)))
            return results if isinstance(results, tuple) else (results,)

        if info.batch_size == 0:  # shapes come from the fake, as no element is computed
            one = run(fake, lambda a, d: a.new_empty((*a.shape[:d], *a.shape[d + 1 :])))
            results = tuple(t.new_empty((0, *t.shape)) for t in one)
        else:
            operator = getattr(torch.ops.flashattn, name)
            each = [run(operator, partial(_select, n)) for n in range(info.batch_size)]
            results = tuple(map(torch.stack, zip(*each)))
        return (results, (0,) * len(results)) if len(results) > 1 else (results[0], 0)

    return rule


register(
    f"forward(Tensor q, Tensor k, Tensor v, {OPTIONS}) -> (Tensor, Tensor)", _forward, fakes.forward
)
register(
    f"forward_out(Tensor q, Tensor k, Tensor v, Tensor(a!) out, {OPTIONS}) -> Tensor",
    _forward_out,
    fakes.forward_out,
    vmap=False,
)
register(
    "backward(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse,"
    f" bool needs_dbias, bool needs_dsinks, {OPTIONS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _fake_backward,
)
register(
    "merge(Tensor out_a, Tensor lse_a, Tensor out_b, Tensor lse_b) -> (Tensor, Tensor)",
    passes.merge,
    fakes.merge,
)
torch.library.register_autograd(
    "flashattn::forward", operator_gradients, setup_context=operator_save, lib=_library
)
torch.library.register_autograd("flashattn::backward", no_double_backward, lib=_library)
torch.library.register_autograd(
    "flashattn::merge", merge_gradients, setup_context=save_merge, lib=_library
)
