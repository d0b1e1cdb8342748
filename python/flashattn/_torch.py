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
from ._options import TENSORS, Options, scale_or_default

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


# --- The passes themselves: allocate outputs, call the binding.


def dense(t: Tensor | None) -> Tensor | None:
    """The library wants a last stride of 1; DLPack knows no negation bit."""
    if t is None or t.dim() == 0 or (t.stride(-1) == 1 and not t.is_neg()):
        return t
    return t.resolve_neg().contiguous()


def _dense_options(options: tuple[Any, ...]) -> tuple[Any, ...]:
    tensors = options[:TENSORS]
    if tensors == _NO_TENSORS:
        return options
    return (*map(dense, tensors), *options[TENSORS:])


_NO_TENSORS = (None,) * TENSORS


def _stream(t: Tensor) -> int:
    return torch.cuda.current_stream(t.device).cuda_stream if t.is_cuda else 0


def _new_out(q: Tensor, v: Tensor) -> Tensor:
    """[batch, seqlen, heads, head_dim of v], or packed [tokens, heads, head_dim of v]; dense."""
    return q.new_empty((*q.shape[:-1], v.shape[-1]))


def _new_lse(q: Tensor) -> Tensor:
    """[batch, heads, seqlen], or packed [heads, tokens]."""
    *batch, rows, heads, _ = q.shape
    return q.new_empty((*batch, heads, rows), dtype=torch.float32)


def _forward_out(q: Tensor, k: Tensor, v: Tensor, out: Tensor, *options: Any) -> Tensor:
    lse = _new_lse(q)
    _run_forward(q, k, v, out, lse, options)
    return lse


def _forward(
    q: Tensor, k: Tensor, v: Tensor, *options: Any, needs_lse: bool = True
) -> tuple[Tensor, Tensor | None]:
    out = _new_out(q, v)
    lse = _new_lse(q) if needs_lse else None
    _run_forward(q, k, v, out, lse, options)
    return out, lse


def _run_forward(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor | None, options: tuple[Any, ...]
) -> None:
    stream = _stream(q)
    _binding.forward(dense(q), dense(k), dense(v), out, lse, stream, *_dense_options(options))


def _run_backward(
    tensors: tuple[Tensor, ...],
    dlse: Tensor | None,
    needs_dbias: bool,
    needs_dsinks: bool,
    options: tuple[Any, ...],
) -> tuple[Tensor | None, ...]:
    """dq, dk, dv, dbias, dsinks of tensors = (dout, q, k, v, out, lse)."""
    dout, q, k, v, out, lse = tensors
    gradients = _gradient_buffers(q, k, v, needs_dbias, needs_dsinks, options)
    _binding.backward(
        dense(dout),
        dense(q),
        dense(k),
        dense(v),
        dense(out),
        dense(lse),
        *gradients[:3],
        dense(dlse),
        *gradients[3:],
        _stream(q),
        *_dense_options(options),
    )
    return gradients


def _gradient_buffers(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    needs_dbias: bool,
    needs_dsinks: bool,
    options: tuple[Any, ...],
) -> tuple[Tensor | None, ...]:
    given = Options._make(options)
    return (
        q.new_empty(q.shape),
        k.new_empty(k.shape),
        v.new_empty(v.shape),
        given.bias.new_empty(given.bias.shape) if needs_dbias else None,
        given.sinks.new_empty(given.sinks.shape) if needs_dsinks else None,
    )


def _merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    out = torch.empty(out_a.shape, dtype=out_a.dtype, device=out_a.device)
    lse = torch.empty(lse_a.shape, dtype=torch.float32, device=out_a.device)
    _binding.merge(*map(dense, (out_a, lse_a, out_b, lse_b)), out, lse, _stream(out_a))
    return out, lse


# --- Gradients: one rule for eager code and for the operators.


def _save(
    ctx: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    options: tuple[Any, ...],
    output: tuple[Tensor, Tensor | None],
) -> None:
    ctx.save_for_backward(q, k, v, *output, *options[:TENSORS])
    ctx.numbers = options[TENSORS:]
    ctx.set_materialize_grads(False)


def _gradients(
    ctx: Any, dout: Tensor | None, dlse: Tensor | None, needs_dbias: bool, needs_dsinks: bool
) -> tuple[Tensor | None, ...]:
    """dq, dk, dv, dbias, dsinks."""
    q, k, v, out, lse, *tensors = ctx.saved_tensors
    if dout is None:
        dout = torch.zeros_like(out)
    options = (*tensors, *ctx.numbers)
    # With create_graph the operator is called: its own gradient is the error to be seen.
    if not torch.is_grad_enabled() and is_direct(dout, q, k, v):
        of = (dout, q, k, v, out, lse)
        return _run_backward(of, dlse, needs_dbias, needs_dsinks, options)
    run = _FunctorchBackward.apply if _in_functorch() else torch.ops.flashattn.backward
    dq, dk, dv, dbias, dsinks = run(
        dout, dlse, q, k, v, out, lse, needs_dbias, needs_dsinks, *options
    )
    return dq, dk, dv, dbias if needs_dbias else None, dsinks if needs_dsinks else None


class _Attend(torch.autograd.Function):
    """For eager code; bias and sinks stand beside the options, of which they are part, as autograd
    follows arguments only. (Options one by one would cost 10 us a call.)"""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        sinks: Tensor | None,
        given: Options,
    ) -> tuple[Tensor, Tensor | None]:
        output = _forward(q, k, v, *given)
        _save(ctx, q, k, v, given, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        dout, dlse = grads
        return (*_gradients(ctx, dout, dlse, *ctx.needs_input_grad[3:5]), None)


def _in_functorch() -> bool:
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def _operator_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, *options = inputs
    _save(ctx, q, k, v, tuple(options), output)


def _operator_gradients(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    dout, dlse = grads
    dq, dk, dv, dbias, dsinks = _gradients(ctx, dout, dlse, *ctx.needs_input_grad[4:6])
    return (dq, dk, dv, None, dbias, dsinks, *[None] * (len(Options._fields) - 3))


def _no_double_backward(ctx: Any, *grads: Any) -> Any:
    raise RuntimeError(
        "flashattn: attention can be differentiated once; double backward is not offered"
    )


class _FunctorchAttend(torch.autograd.Function):
    """For torch.func.grad, which does not go through an operator's own gradient."""

    generate_vmap_rule = True
    setup_context = staticmethod(_operator_save)
    backward = staticmethod(_operator_gradients)

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return torch.ops.flashattn.forward(*inputs)


class _FunctorchBackward(torch.autograd.Function):
    generate_vmap_rule = True
    backward = staticmethod(_no_double_backward)

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return torch.ops.flashattn.backward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass


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
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        output = _merge(*inputs)
        _save_merge(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor, ...]:
        return _merge_gradients(ctx, *grads)


# --- The operators.


def _fake_forward(q: Tensor, k: Tensor, v: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    return _new_out(q, v), _new_lse(q)


def _fake_forward_out(q: Tensor, k: Tensor, v: Tensor, out: Tensor, *options: Any) -> Tensor:
    return _new_lse(q)


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
    return _nothing_for_none(q, _run_backward(of, dlse, needs_dbias, needs_dsinks, options))


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
    return _nothing_for_none(q, _gradient_buffers(q, k, v, needs_dbias, needs_dsinks, options))


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
    ("merge", _merge, _fake_merge),
):
    _library.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"flashattn::{_name}", _fake, lib=_library)
for _name in ("forward", "backward", "merge"):
    torch.library.register_vmap(f"flashattn::{_name}", _one_at_a_time(_name), lib=_library)
torch.library.register_autograd(
    "flashattn::forward", _operator_gradients, setup_context=_operator_save, lib=_library
)
torch.library.register_autograd("flashattn::backward", _no_double_backward, lib=_library)
torch.library.register_autograd(
    "flashattn::merge", _merge_gradients, setup_context=_save_merge, lib=_library
)


# --- What the public functions call.

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


def is_direct(*tensors: Any) -> bool:
    """Whether nothing but autograd watches these tensors' operations."""
    if (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._is_torch_function_mode_enabled()
        or torch._C._are_functorch_transforms_active()
    ):
        return False
    for t in tensors:  # noqa: SIM110 (a generator costs 0.5 us more)
        if t is not None and (type(t) not in _PLAIN_TYPES or t.is_meta):
            return False
    return True


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


def need_device(device: torch.device, **tensors: Tensor) -> None:
    """ValueError for a tensor elsewhere. The library sees it too, but not behind a fake tensor."""
    for name, t in tensors.items():
        if t.device != device:
            raise ValueError(f"{name}: lies on {t.device}, but q on {device}")


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """As torch's own attention: all in autocast's dtype."""
    device = tensors[0].device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
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
    out: Tensor | None,
    given: Options,
    needs_lse: bool = True,
) -> tuple[Tensor, Any, Options]:
    """Attention in all its forms. Returns out, lse (perhaps None where it is not needed), and the
    options as they were passed on (with dropout's state, and the scale of a padded head_dim)."""
    direct = is_direct(q, k, v, out, *given[:TENSORS])
    if not direct:
        need_tensors(q=q, k=k, v=v)
        need_device(q.device, k=k, v=v)
    if not direct or torch._C._is_any_autocast_enabled():
        q, k, v = _autocast(q, k, v)
    head_dim_v = v.shape[-1]
    padded = q.shape[-1] % 8 != 0 or head_dim_v % 8 != 0
    if padded:
        given = given._replace(scale=scale_or_default(given.scale, q.shape[-1]))
        q, k, v = _multiple_of_8(q), _multiple_of_8(k), _multiple_of_8(v)
    if given.dropout_p > 0 and given.dropout_state is None:
        given = given._replace(dropout_state=new_dropout_state(q.device))
    gradient = needs_gradient(q, k, v, given.bias, given.sinks)
    if out is not None:
        if gradient:
            raise ValueError("out: cannot be given where gradients are wanted; use torch.no_grad()")
        if not padded:
            run_out = _forward_out if direct else torch.ops.flashattn.forward_out
            return out, run_out(q, k, v, out, *given), given
    if not direct:
        run = _FunctorchAttend.apply if _in_functorch() else torch.ops.flashattn.forward
        result, lse = run(q, k, v, *given)
    elif gradient:
        result, lse = _Attend.apply(q, k, v, given.bias, given.sinks, given)
    else:
        result, lse = _forward(q, k, v, *given, needs_lse=needs_lse)
    if padded:
        result = result[..., :head_dim_v]
    return result if out is None else out.copy_(result), lse, given


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """See flashattn.merge."""
    need_tensors(out_a=out_a, lse_a=lse_a, out_b=out_b, lse_b=lse_b)
    run: Any = torch.ops.flashattn.merge
    if is_direct(out_a, lse_a, out_b, lse_b):
        run = _Merge.apply if needs_gradient(out_a, lse_a, out_b, lse_b) else _merge
    return run(out_a, lse_a, out_b, lse_b)
