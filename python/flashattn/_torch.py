"""The library for PyTorch: operators, their fakes and gradients, and the quick way past them.

`attend` is what the public functions call. In plain eager code it goes straight to the binding;
under torch.compile, functorch, a mode or with a tensor subclass it goes through the operators
`flashattn::forward`, `forward_out`, `backward` and `merge`, which all of these know how to handle.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _binding
from ._options import TENSORS, Options, family_number, scale_or_default, window_sides

_OPTIONS = (
    "Tensor? alibi_slopes, Tensor? bias, Tensor? sinks, Tensor? dropout_state,"
    " Tensor? cu_seqlens_q, Tensor? cu_seqlens_k, Tensor? seqused_q, Tensor? seqused_k,"
    " SymInt max_seqlen_q, SymInt max_seqlen_k, float? scale, bool causal,"
    " SymInt window_left, SymInt window_right, float softcap, float dropout_p,"
    " bool deterministic, bool batch_invariant, int family, int num_threads"
)
_library = torch.library.Library("flashattn", "DEF")
_library.define(f"forward(Tensor q, Tensor k, Tensor v, {_OPTIONS}) -> (Tensor, Tensor)")
_library.define(
    f"forward_out(Tensor q, Tensor k, Tensor v, Tensor(a!) out, {_OPTIONS}) -> Tensor"
)
_library.define(
    "backward(Tensor dout, Tensor? dlse, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse,"
    f" bool needs_dbias, bool needs_dsinks, {_OPTIONS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "merge(Tensor out_a, Tensor lse_a, Tensor out_b, Tensor lse_b) -> (Tensor, Tensor)"
)


# --- The passes themselves: allocate outputs, call the binding.


def dense(t: Tensor | None) -> Tensor | None:
    """The library wants a last stride of 1; DLPack knows no negation bit."""
    if t is None or t.dim() == 0 or (t.stride(-1) == 1 and not t.is_neg()):
        return t
    return t.resolve_neg().contiguous()


def _dense_options(options: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*map(dense, options[:TENSORS]), *options[TENSORS:])


def _stream(t: Tensor) -> int:
    return torch.cuda.current_stream(t.device).cuda_stream if t.is_cuda else 0


def _out_shape(q: Tensor, v: Tensor) -> tuple[Any, ...]:
    return (*q.shape[:-1], v.shape[-1])


def _lse_shape(q: Tensor) -> tuple[Any, ...]:
    """[batch, heads, seqlen], or packed [heads, tokens]."""
    return (*q.shape[:-3], q.shape[-2], q.shape[-3])


def _forward_out(q: Tensor, k: Tensor, v: Tensor, out: Tensor, *options: Any) -> Tensor:
    lse = torch.empty(_lse_shape(q), dtype=torch.float32, device=q.device)
    _binding.forward(
        dense(q), dense(k), dense(v), out, lse, _stream(q), *_dense_options(options)
    )
    return lse


def _forward(q: Tensor, k: Tensor, v: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    out = torch.empty(_out_shape(q, v), dtype=q.dtype, device=q.device)
    return out, _forward_out(q, k, v, out, *options)


def _gradient_like(t: Tensor | None, wanted: bool, q: Tensor) -> Tensor:
    """Room for the gradient of an optional tensor; of size 0 where nobody wants it."""
    if t is None or not wanted:
        return torch.empty((0,), dtype=torch.float32, device=q.device)
    return torch.empty(t.shape, dtype=t.dtype, device=t.device)


def _backward_buffers(
    q: Tensor, k: Tensor, v: Tensor, needs_dbias: bool, needs_dsinks: bool, options: Options
) -> tuple[Tensor, ...]:
    dq, dk, dv = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v))
    dbias = _gradient_like(options.bias, needs_dbias, q)
    dsinks = _gradient_like(options.sinks, needs_dsinks, q)
    return dq, dk, dv, dbias, dsinks


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
    results = _backward_buffers(q, k, v, needs_dbias, needs_dsinks, Options(*options))
    dq, dk, dv, dbias, dsinks = results
    _binding.backward(
        *map(dense, (dout, q, k, v, out, lse)),
        dq,
        dk,
        dv,
        dense(dlse),
        dbias if needs_dbias else None,
        dsinks if needs_dsinks else None,
        _stream(q),
        *_dense_options(options),
    )
    return results


def _merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    out = torch.empty(out_a.shape, dtype=out_a.dtype, device=out_a.device)
    lse = torch.empty(lse_a.shape, dtype=torch.float32, device=out_a.device)
    _binding.merge(*map(dense, (out_a, lse_a, out_b, lse_b)), out, lse, _stream(out_a))
    return out, lse


# --- Gradients: one rule for eager code and for the operators.


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, *options = inputs
    ctx.save_for_backward(q, k, v, *output, *options[:TENSORS])
    ctx.numbers = options[TENSORS:]
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse, *tensors = ctx.saved_tensors
    if dout is None:
        dout = torch.zeros_like(out)
    needs_dbias, needs_dsinks = ctx.needs_input_grad[4:6]
    # With create_graph the operator is called: its own gradient is the error to be seen.
    direct = not torch.is_grad_enabled() and is_direct(dout, q, k, v)
    run = _backward if direct else torch.ops.flashattn.backward
    dq, dk, dv, dbias, dsinks = run(
        dout, dlse, q, k, v, out, lse, needs_dbias, needs_dsinks, *tensors, *ctx.numbers
    )
    optional = [None, dbias if needs_dbias else None, dsinks if needs_dsinks else None]
    return (dq, dk, dv, *optional, *[None] * (len(Options._fields) - 3))


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        output = _forward(*inputs)
        _save(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return _gradients(ctx, *grads)


def _no_double_backward(ctx: Any, *grads: Any) -> Any:
    raise RuntimeError("flashattn: attention can be differentiated once; double backward is not offered")


def _save_merge(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.set_materialize_grads(False)


def _merge_gradients(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor, ...]:
    """With w = exp(lse_a - lse): d out_a = w dout, d lse_a = w (dlse + <dout, out_a - out>)."""
    out_a, lse_a, out_b, lse_b, out, lse = ctx.saved_tensors
    grads = []
    for part, part_lse in ((out_a, lse_a), (out_b, lse_b)):
        weight = torch.where(part_lse == -torch.inf, 0.0, torch.exp(part_lse - lse))
        dpart_lse = torch.zeros_like(part_lse) if dlse is None else dlse
        dpart = torch.zeros_like(part)
        if dout is not None:
            dpart = (weight.transpose(-1, -2).unsqueeze(-1) * dout).to(part.dtype)
            change = (dout.float() * (part.float() - out.float())).sum(-1)
            dpart_lse = dpart_lse + change.transpose(-1, -2)
        grads += [dpart, weight * dpart_lse]
    return tuple(grads)


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        output = _merge(*inputs)
        _save_merge(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, ...]:  # type: ignore[override]
        return _merge_gradients(ctx, *grads)


# --- The operators.


def _fake_forward(q: Tensor, k: Tensor, v: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(_out_shape(q, v)), q.new_empty(_lse_shape(q), dtype=torch.float32)


def _fake_forward_out(q: Tensor, k: Tensor, v: Tensor, out: Tensor, *options: Any) -> Tensor:
    return q.new_empty(_lse_shape(q), dtype=torch.float32)


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
    return _backward_buffers(q, k, v, needs_dbias, needs_dsinks, Options(*options))


def _fake_merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
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
    ("merge", _merge, _fake_merge),
):
    _library.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"flashattn::{_name}", _fake, lib=_library)
for _name in ("forward", "backward", "merge"):
    torch.library.register_vmap(f"flashattn::{_name}", _one_at_a_time(_name), lib=_library)
torch.library.register_autograd(
    "flashattn::forward", _gradients, setup_context=_save, lib=_library
)
torch.library.register_autograd("flashattn::backward", _no_double_backward, lib=_library)
torch.library.register_autograd(
    "flashattn::merge", _merge_gradients, setup_context=_save_merge, lib=_library
)


# --- What the public functions call.

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


def is_direct(*tensors: Tensor | None) -> bool:
    """Whether nothing but autograd watches these tensors' operations."""
    return (
        not torch.compiler.is_compiling()
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._is_torch_function_mode_enabled()
        and torch._C._functorch.maybe_current_level() is None
        and all(t is None or (type(t) in _PLAIN_TYPES and not t.is_meta) for t in tensors)
    )


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for a gradient of one of these."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def need_tensors(**tensors: Any) -> None:
    """TypeError for what is no torch.Tensor."""
    for name, t in tensors.items():
        if not isinstance(t, Tensor):
            raise TypeError(
                f"{name}: is {type(t).__name__}; expected a torch.Tensor"
                " (flashattn.attention takes NumPy arrays and other DLPack tensors)"
            )


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """As torch's own attention: all in autocast's dtype."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t.to(dtype) if t.dtype == torch.float32 else t for t in tensors)


def _multiple_of_8(t: Tensor) -> Tensor:
    """head_dim padded with zeros, which change no score."""
    return torch.nn.functional.pad(t, (0, -t.shape[-1] % 8))


def new_dropout_state(device: torch.device) -> Tensor:
    """int64 [2] = (seed, offset), drawn from torch's generator: manual_seed repeats it, and a
    checkpoint draws the same again."""
    return torch.randint(-(2**63), 2**63 - 1, (2,), dtype=torch.int64, device=device)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    softmax_scale: float | None = None,
    window_size: Any = None,
    family: str = "auto",
    out: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor, Options]:
    """attend_with, by the names of flash_attn; `options` are fields of Options."""
    left, right = window_sides(window_size)
    given = Options(
        scale=softmax_scale,
        window_left=left,
        window_right=right,
        family=family_number(family),
        **options,
    )
    return attend_with(q, k, v, out, given)


def attend_with(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor | None, given: Options
) -> tuple[Tensor, Tensor, Options]:
    """Attention in all its forms. Returns out, lse, and the options as they were passed on (with
    dropout's state, and the scale of a padded head_dim)."""
    need_tensors(q=q, k=k, v=v)
    q, k, v = _autocast(q, k, v)
    head_dim_v = v.shape[-1]
    padded = q.shape[-1] % 8 != 0 or head_dim_v % 8 != 0
    if padded:
        given = given._replace(scale=scale_or_default(given.scale, q.shape[-1]))
        q, k, v = _multiple_of_8(q), _multiple_of_8(k), _multiple_of_8(v)
    if given.dropout_p > 0 and given.dropout_state is None:
        given = given._replace(dropout_state=new_dropout_state(q.device))
    direct = is_direct(q, k, v, out, *given[:TENSORS])
    gradient = needs_gradient(q, k, v, given.bias, given.sinks)
    if out is not None:
        if gradient:
            raise ValueError("out: cannot be given where gradients are wanted; use torch.no_grad()")
        if not padded:
            run_out = _forward_out if direct else torch.ops.flashattn.forward_out
            return out, run_out(q, k, v, out, *given), given
    run = torch.ops.flashattn.forward
    if direct:
        run = _Attend.apply if gradient else _forward
    result, lse = run(q, k, v, *given)
    if padded:
        result = result[..., :head_dim_v]
    return result if out is None else out.copy_(result), lse, given


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """See flashattn.merge."""
    need_tensors(out_a=out_a, lse_a=lse_a, out_b=out_b, lse_b=lse_b)
    run = torch.ops.flashattn.merge
    if is_direct(out_a, lse_a, out_b, lse_b):
        run = _Merge.apply if needs_gradient(out_a, lse_a, out_b, lse_b) else _merge
    return run(out_a, lse_a, out_b, lse_b)
