"""The gradients: one rule for eager code, for the operators and for torch.func."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._options import NO_TENSORS, NOTHING, TENSORS, Options, has_tensors
from . import passes
from .checks import in_functorch, is_direct, is_traced, refuse_missing_gradients


def _save(
    ctx: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: tuple[Any, ...],
    output: tuple[Tensor, Tensor | None],
) -> None:
    if has_tensors(options):
        ctx.save_for_backward(q, k, v, *output, *options[:TENSORS])
    else:
        ctx.save_for_backward(q, k, v, *output)
    ctx.numbers = options[TENSORS:]
    ctx.set_materialize_grads(False)


def _gradients(
    ctx: Any, dout: Tensor | None, dlse: Tensor | None, needs_dbias: bool, needs_dsinks: bool
) -> tuple[Tensor | None, ...]:
    """dq, dk, dv, dbias, dsinks."""
    if is_traced():  # torch.jit.trace would record out and lse as constants
        raise NotImplementedError(
            "flashattn: gradients are not recorded by torch.jit.trace; trace the function, and"
            " differentiate what it returns"
        )
    q, k, v, out, lse, *tensors = ctx.saved_tensors
    if dout is None:
        dout = torch.zeros_like(out)
    options = (*(tensors or NO_TENSORS), *ctx.numbers)
    # With create_graph the operator is called, because its own gradient raises the error.
    batched = not torch.compiler.is_compiling() and any(  # autograd.grad(is_grads_batched=True)
        g is not None and torch._C._functorch.is_legacy_batchedtensor(g) for g in (dout, dlse)
    )
    watched = (dout, q, k, v) if dlse is None else (dout, dlse, q, k, v)
    if not torch.is_grad_enabled() and not batched and is_direct(*watched):
        of = (dout, q, k, v, out, lse)
        return passes.backward(of, dlse, needs_dbias, needs_dsinks, options)
    run = FunctorchBackward.apply if in_functorch() else torch.ops.flashattn.backward
    dq, dk, dv, dbias, dsinks = run(
        dout, dlse, q, k, v, out, lse, needs_dbias, needs_dsinks, *options
    )
    return dq, dk, dv, dbias if needs_dbias else None, dsinks if needs_dsinks else None


class Attend(torch.autograd.Function):
    """For eager code. bias and sinks are arguments beside the options that contain them, because
    autograd follows arguments only. (All options as arguments would cost 10 us a call.)"""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        sinks: Tensor | None,
        given: Options,
        needs_lse: bool,
    ) -> Any:
        output = passes.forward(q, k, v, given)
        _save(ctx, q, k, v, given, output)
        return output if needs_lse else output[0]  # a second output costs 1 us

    @staticmethod
    def backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None = None) -> Any:
        return (*_gradients(ctx, dout, dlse, *ctx.needs_input_grad[3:5]), None, None)


# Function.apply without its part in Python, which takes as long as all the rest. That part serves
# functorch, which `is_direct` has excluded.
_apply: Any = super(torch.autograd.Function, Attend).apply
_unwrap_if_dead = torch._C._functorch.unwrap_if_dead


def attend_recorded(
    q: Tensor, k: Tensor, v: Tensor, given: Options, needs_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Attention with a node in autograd's graph."""
    # torch.func.grad may have left a wrapper around a tensor.
    q, k, v = _unwrap_if_dead(q), _unwrap_if_dead(k), _unwrap_if_dead(v)
    result = _apply(q, k, v, given.bias, given.sinks, given, needs_lse)
    return result if needs_lse else (result, None)


def operator_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, *options = inputs
    given = Options._make(options)
    refuse_missing_gradients(given)
    _save(ctx, q, k, v, given, output)


def operator_gradients(ctx: Any, *grads: Tensor | None) -> tuple[Any, ...]:
    dout, dlse = grads
    wanted = Options._make(ctx.needs_input_grad[3:])  # behind q, k and v
    dq, dk, dv, dbias, dsinks = _gradients(ctx, dout, dlse, wanted.bias, wanted.sinks)
    return (dq, dk, dv, *NOTHING._replace(bias=dbias, sinks=dsinks))


def no_double_backward(ctx: Any, *grads: Any) -> Any:
    raise RuntimeError(
        "flashattn: attention can be differentiated once; double backward is not offered"
    )


class FunctorchAttend(torch.autograd.Function):
    """For torch.func.grad, which does not call an operator's own gradient."""

    generate_vmap_rule = True
    setup_context = staticmethod(operator_save)
    backward = staticmethod(operator_gradients)

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return torch.ops.flashattn.forward(*inputs)


class FunctorchBackward(torch.autograd.Function):
    generate_vmap_rule = True
    backward = staticmethod(no_double_backward)

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return torch.ops.flashattn.backward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass


def save_merge(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.set_materialize_grads(False)


def merge_gradients(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor, ...]:
    """With w = exp(lse_a - lse): d out_a = w dout, d lse_a = w (dlse + <dout, out_a - out>). Both
    are 0 in rows of a part without keys, whatever the part holds there."""
    out_a, lse_a, out_b, lse_b, out, lse = ctx.saved_tensors
    grads = []
    for part, part_lse in ((out_a, lse_a), (out_b, lse_b)):
        absent = part_lse.isinf()
        weight = torch.where(absent, 0.0, torch.exp(part_lse - lse))
        dpart_lse = torch.zeros_like(part_lse) if dlse is None else dlse
        dpart = torch.zeros_like(part)
        if dout is not None:
            dpart = _of_rows(weight) * dout.float()
            dpart = dpart.masked_fill(_of_rows(absent), 0.0).to(part.dtype)
            change = (dout.float() * (part.float() - out.float())).sum(-1)
            dpart_lse = dpart_lse + change.transpose(-1, -2)
        grads += [dpart, (weight * dpart_lse).masked_fill(absent, 0.0)]
    return tuple(grads)


def _of_rows(statistic: Tensor) -> Tensor:
    """[batch, heads, seqlen] as [batch, seqlen, heads, 1]."""
    return statistic.transpose(-1, -2).unsqueeze(-1)


def merge_by_formula(
    out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor
) -> tuple[Tensor, Tensor]:
    """For torch.func, which differentiates plain operations only."""
    lse_a, lse_b = (torch.where(lse.isinf(), -torch.inf, lse) for lse in (lse_a, lse_b))
    top = torch.maximum(lse_a, lse_b).detach()
    top = torch.where(top == -torch.inf, 0.0, top)
    sum_a, sum_b = torch.exp(lse_a - top), torch.exp(lse_b - top)
    empty = (lse_a == -torch.inf) & (lse_b == -torch.inf)
    total = torch.where(empty, 1.0, sum_a + sum_b)

    def weighted(part: Tensor, part_lse: Tensor, part_sum: Tensor) -> Tensor:
        absent = _of_rows(part_lse == -torch.inf)
        return _of_rows(part_sum / total) * part.float().masked_fill(absent, 0.0)

    out = (weighted(out_a, lse_a, sum_a) + weighted(out_b, lse_b, sum_b)).to(out_a.dtype)
    return out, torch.where(empty, -torch.inf, top + torch.log(total))


class Merge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        output = passes.merge(*inputs)
        save_merge(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, ...]:
        return merge_gradients(ctx, *grads)
