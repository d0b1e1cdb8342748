"""The library for PyTorch.

The public functions call `attend`. In plain eager code `attend` calls the binding directly. Where
anything else may watch or change the call (torch.jit.trace, torch.compile, functorch, a mode, a
tensor subclass, a lazy view), it calls the operators `flashattn::forward`, `forward_out`,
`backward` and `merge`, because the dispatcher shows operators to all of these.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .._options import TENSORS, Options, has_tensors, scale_or_default, whole_number
from . import fakes, operators, passes, sharding
from .checks import (
    in_functorch,
    is_direct,
    is_traced,
    need_device,
    need_head_dims,
    need_shape_of_heads,
    need_tensors,
    needs_gradient,
    refuse_capture,
    refuse_missing_gradients,
    refuse_tangents,
    shape_of,
)
from .gradients import (
    FunctorchAttend,
    FunctorchBackward,
    Merge,
    attend_recorded,
    merge_by_formula,
)

__all__ = [
    "added",
    "attend",
    "backward",
    "copy_exactly",
    "fakes",
    "in_autocast",
    "is_direct",
    "is_traced",
    "length",
    "longest",
    "merge",
    "need_head_dims",
    "need_shape_of_heads",
    "need_tensors",
    "new_dropout_state",
    "operators",
    "passes",
    "prepare",
    "refuse_capture",
    "shape_of",
    "sharding",
]


_is_autocast = torch._C._is_any_autocast_enabled


def in_autocast(t: Tensor) -> Tensor:
    """t in autocast's dtype where autocast is on, as torch's own attention takes its inputs."""
    device = t.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return t
    if not t.is_floating_point() or t.dtype == torch.float64:
        return t
    return t.to(torch.get_autocast_dtype(device))


def _autocast(
    q: Tensor, k: Tensor, v: Tensor, given: Options
) -> tuple[Tensor, Tensor, Tensor, Options]:
    """float32 sinks stay float32: torch's attention, the model for casts, has no sinks."""
    if given.bias is not None:
        given = given._replace(bias=in_autocast(given.bias))
    if given.sinks is not None and given.sinks.dtype != torch.float32:
        given = given._replace(sinks=in_autocast(given.sinks))
    return in_autocast(q), in_autocast(k), in_autocast(v), given


def _padded(
    q: Tensor, k: Tensor, v: Tensor, given: Options
) -> tuple[Tensor, Tensor, Tensor, Options]:
    """Pads head_dim to a multiple of 8 with zeros, which change no score."""
    given = given._replace(scale=scale_or_default(given.scale, shape_of(q)[-1]))
    return _wide(q), _wide(k), _wide(v), given


def _wide(t: Tensor) -> Tensor:
    missing = -shape_of(t)[-1] % 8
    return t if missing == 0 else torch.nn.functional.pad(t, (0, missing))


def copy_exactly(name: str, target: Tensor, source: Tensor) -> Tensor:
    """target := source, without broadcasting or a change of dtype."""
    to, of = shape_of(target), shape_of(source)
    if to != of or target.dtype != source.dtype:
        raise ValueError(
            f"{name}: is {target.dtype} {list(to)}; expected {source.dtype} {list(of)}"
        )
    return target.copy_(source)


def new_dropout_state(device: torch.device) -> Tensor:
    """int64 [2] = (seed, offset), drawn from torch's generator: manual_seed repeats it, and a
    checkpoint draws the same again."""
    return torch.randint(-(2**63), 2**63 - 1, (2,), dtype=torch.int64, device=device)


def longest(cu_seqlens: Tensor) -> int | None:
    """The longest packed sequence, for which the host reads the data. None under a tracer, which
    would keep the number as a constant: the operator then reads the data each time it runs."""
    return passes.longest(cu_seqlens) if is_direct(cu_seqlens) else None


def length(name: str, given: Any) -> Any:
    """An integer, also of a tensor or of NumPy. None for a tensor under torch.jit.trace, which
    would keep its number as a constant: the operator then reads cu_seqlens."""
    if isinstance(given, torch.SymInt) or (type(given) is int and torch.compiler.is_compiling()):
        return given  # as a symbol
    if isinstance(given, Tensor) and is_traced():
        return None
    return whole_number(name, given)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor | None,
    given: Options,
    needs_lse: bool = True,
) -> tuple[Tensor, Any, Options]:
    """Attention in all its forms. Returns out, lse (which may be None where it is not needed), and
    the options that the library got: with dropout's state, and the scale of a padded head_dim."""
    tensors = has_tensors(given)
    direct = _checked(q, k, v, out, given, tensors)
    shape, shape_v = (q.shape, v.shape) if direct else (shape_of(q), shape_of(v))
    if not (_is_plain(shape[-1]) and _is_plain(shape_v[-1])):
        need_head_dims(q, k, v)
        if shape[-1] % 8 != 0 or shape_v[-1] % 8 != 0:
            return _attend_padded(q, k, v, out, given, needs_lse)
    if tensors:
        given = _with_tensors(q, given)
    if not direct or _is_autocast():
        q, k, v, given = _autocast(q, k, v, given)
    if given.dropout_p > 0 and given.dropout_state is None:
        given = given._replace(dropout_state=new_dropout_state(q.device))
    gradient = needs_gradient(q, k, v, given.bias, given.sinks, out)
    if out is not None:
        _refuse_out_with(gradient)
        return out, _attend_into(out, q, k, v, given, direct, needs_lse), given
    if not direct:
        run = FunctorchAttend.apply if in_functorch() else torch.ops.flashattn.forward
        result, lse = run(q, k, v, *given)
    elif gradient:
        result, lse = attend_recorded(q, k, v, given, needs_lse)
    else:
        result, lse = passes.forward(q, k, v, given, needs_lse)
    return result, lse, given


def _attend_padded(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor | None, given: Options, needs_lse: bool
) -> tuple[Tensor, Any, Options]:
    if out is not None:
        _refuse_out_with(needs_gradient(q, k, v, given.bias, given.sinks, out))
    try:
        wide = _padded(q, k, v, given)
        result, lse, given = attend(*wide[:3], None, wide[3], needs_lse)
    except ValueError as error:
        raise ValueError(_as_given(str(error), q=q, k=k, v=v)) from None
    result = result[..., : shape_of(v)[-1]]
    return result if out is None else copy_exactly("out", out, result), lse, given


def _is_plain(head_dim: Any) -> bool:
    """Whether the library takes this head_dim, or names it in an error, without padding."""
    return head_dim % 8 == 0 and 0 < head_dim <= 512


def _as_given(text: str, **tensors: Tensor) -> str:
    """The text of an error about a padded tensor's shape, with the caller's head_dim in it."""
    told = tensors.get(text.partition(":")[0])
    if told is None:
        return text
    head_dim = shape_of(told)[-1]
    return text.replace(f", {head_dim + -head_dim % 8}]", f", {head_dim}]")


def prepare(q: Tensor, k: Tensor, v: Tensor, given: Options) -> None:
    """See flashattn.prepare."""
    if not _checked(q, k, v, None, given, has_tensors(given)):
        raise TypeError("q: only plain tensors can be prepared for, outside of torch.compile")
    need_head_dims(q, k, v)
    given = _with_tensors(q, given)
    with torch.no_grad():
        passes.prepare(*_autocast(*_padded(q, k, v, given)))


def _with_tensors(q: Tensor, given: Options) -> Options:
    refuse_missing_gradients(given)
    if given.bias is not None and given.bias.dtype == torch.bool:
        return given._replace(bias=added(given.bias, q.dtype))
    return given


def added(bias: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """A boolean bias, True where a key is seen, as torch's own attention takes it: 0 and -inf."""
    if bias.dtype != torch.bool:
        return bias
    seen = torch.zeros((), dtype=dtype, device=bias.device)
    return torch.where(bias, seen, -torch.inf)


def _checked(q: Any, k: Any, v: Any, out: Any, given: Options, tensors: bool) -> bool:
    """Whether the call may go directly to the library. Makes the checks that neither the library
    nor an operator makes by the argument's name. `tensors`: has_tensors(given)."""
    if out is None and not tensors:
        direct = is_direct(q, k, v)
    else:
        direct = is_direct(q, k, v, *(t for t in (out, *given[:TENSORS]) if t is not None))
    if not direct:
        written = {} if out is None else {"out": out}
        _check_watched(given, bool(written), q=q, k=k, v=v, **written)
    if q.dim() < 3 or k.dim() < 3 or v.dim() < 3:
        need_shape_of_heads(q=q, k=k, v=v)
    return direct


def _check_watched(given: Options, writes_out: bool, **tensors: Any) -> None:
    """The checks that an operator does not make by the argument's name."""
    optional = zip(Options._fields[:TENSORS], given)
    named: dict[str, Any] = {**tensors, **{name: t for name, t in optional if t is not None}}
    need_tensors(**named)
    need_device(named["q"].device, **named)
    if forward_ad._current_level >= 0 and not torch.compiler.is_compiling():
        refuse_tangents(*named.values())
    sharding.check(given.dropout_p, writes_out, **named)


def _refuse_out_with(gradient: bool) -> None:
    if gradient:
        raise ValueError("out: cannot be given where gradients are wanted; use torch.no_grad()")


def _attend_into(
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    given: Options,
    direct: bool,
    needs_lse: bool,
) -> Tensor | None:
    compiling = torch.compiler.is_compiling()
    if not compiling and out.is_neg():
        raise ValueError("out: has the negation bit set; give a plain tensor")
    lse: Tensor | None
    if direct:
        lse = passes.forward_out(q, k, v, out, given, needs_lse)
    else:
        lse = torch.ops.flashattn.forward_out(q, k, v, out, *given)
    if not (compiling or out.is_inference()):
        torch.autograd.graph.increment_version(out)  # the binding writes past autograd
    return lse


def backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    dlse: Tensor | None,
    given: Options,
) -> dict[str, Tensor]:
    """See flashattn.attention_backward."""
    of_lse = {} if dlse is None else {"dlse": dlse}
    _check_watched(given, False, q=q, k=k, v=v, dout=dout, out=out, lse=lse, **of_lse)
    need_shape_of_heads(q=q, k=k, v=v, dout=dout, out=out)
    need_head_dims(q, k, v)
    widths = shape_of(q)[-1], shape_of(k)[-1], shape_of(v)[-1]
    for name, t in (("dout", dout), ("out", out)):
        if shape_of(t)[-1] != widths[2]:
            raise ValueError(f"{name}: has head_dim {shape_of(t)[-1]}, but v {widths[2]}")
    wanted = given.bias is not None and given.bias.dtype != torch.bool, given.sinks is not None
    given = _with_tensors(q, given)
    if not in_functorch():  # FunctorchBackward refuses a second derivative itself
        dout, q, k, v, out, lse, dlse = map(_detached, (dout, q, k, v, out, lse, dlse))
        given = Options(*map(_detached, given[:TENSORS]), *given[TENSORS:])
    if any(width % 8 != 0 for width in widths):
        (q, k, v, given), dout, out = _padded(q, k, v, given), _wide(dout), _wide(out)
    of = (dout, q, k, v, out, lse)
    every: tuple[Any, ...]
    if is_direct(*of, *(t for t in (dlse, *given[:TENSORS]) if t is not None)):
        every = passes.backward(of, dlse, *wanted, given)
    else:
        run = FunctorchBackward.apply if in_functorch() else torch.ops.flashattn.backward
        every = run(dout, dlse, q, k, v, out, lse, *wanted, *given)
    of_qkv = [g if g is None else g[..., :n] for g, n in zip(every, widths)]
    names = ("dq", "dk", "dv", "dbias", "dsinks")
    results = zip(names, (*of_qkv, *every[3:]), (True, True, True, *wanted))
    return {name: g for name, g, is_wanted in results if is_wanted}


def _detached(t: Any) -> Any:
    return t if t is None else t.detach()


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """See flashattn.merge."""
    parts = dict(out_a=out_a, lse_a=lse_a, out_b=out_b, lse_b=lse_b)
    need_tensors(**parts)
    need_device(out_a.device, "out_a", **parts)
    if forward_ad._current_level >= 0 and not in_functorch():
        refuse_tangents(*parts.values())
    run: Any = merge_by_formula if in_functorch() else torch.ops.flashattn.merge
    if is_direct(out_a, lse_a, out_b, lse_b):
        run = Merge.apply if needs_gradient(out_a, lse_a, out_b, lse_b) else passes.merge
    else:
        sharding.check(0.0, False, **parts)
    return run(out_a, lse_a, out_b, lse_b)
