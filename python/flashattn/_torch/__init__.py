"""The library for PyTorch.

`attend` is what the public functions call. In plain eager code it goes straight to the binding;
under torch.compile, functorch, a mode or with a tensor subclass it goes through the operators
`flashattn::forward`, `forward_out`, `backward` and `merge`, which all of these know how to handle.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .._options import TENSORS, Options, has_tensors, scale_or_default
from . import operators, passes
from .checks import (
    in_functorch,
    is_direct,
    need_device,
    need_shape_of_heads,
    need_tensors,
    needs_gradient,
    refuse_tangents,
)
from .gradients import FunctorchAttend, Merge, attend_recorded, merge_by_formula

__all__ = [
    "attend",
    "copy_exactly",
    "merge",
    "need_shape_of_heads",
    "need_tensors",
    "new_dropout_state",
    "operators",
    "prepare",
]


_is_autocast = torch._C._is_any_autocast_enabled


def _autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """As torch's own attention: all in autocast's dtype."""
    device = tensors[0].device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(t.to(dtype) if t.dtype == torch.float32 else t for t in tensors)


def _as_the_library_takes_them(
    q: Tensor, k: Tensor, v: Tensor, given: Options
) -> tuple[Tensor, Tensor, Tensor, Options]:
    """In autocast's dtype; head_dim padded to a multiple of 8 with zeros, which change no score."""
    q, k, v = _autocast(q, k, v)
    if q.shape[-1] % 8 != 0 or v.shape[-1] % 8 != 0:
        given = given._replace(scale=scale_or_default(given.scale, q.shape[-1]))
        q, k, v = (torch.nn.functional.pad(t, (0, -t.shape[-1] % 8)) for t in (q, k, v))
    return q, k, v, given


def copy_exactly(name: str, target: Tensor, source: Tensor) -> Tensor:
    """target := source, without broadcasting or a change of dtype."""
    if target.shape != source.shape or target.dtype != source.dtype:
        raise ValueError(
            f"{name}: is {target.dtype} {list(target.shape)};"
            f" expected {source.dtype} {list(source.shape)}"
        )
    return target.copy_(source)


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
    direct = _checked(q, k, v, out, given)
    head_dim_v = v.shape[-1]
    padded = q.shape[-1] % 8 != 0 or head_dim_v % 8 != 0
    if padded or not direct or _is_autocast():
        q, k, v, given = _as_the_library_takes_them(q, k, v, given)
    if given.dropout_p > 0 and given.dropout_state is None:
        given = given._replace(dropout_state=new_dropout_state(q.device))
    gradient = needs_gradient(q, k, v, given.bias, given.sinks, out)
    if out is not None and gradient:
        raise ValueError("out: cannot be given where gradients are wanted; use torch.no_grad()")
    if out is not None and not padded:
        return out, _attend_into(out, q, k, v, given, direct, needs_lse), given
    if not direct:
        run = FunctorchAttend.apply if in_functorch() else torch.ops.flashattn.forward
        result, lse = run(q, k, v, *given)
    elif gradient:
        result, lse = attend_recorded(q, k, v, given, needs_lse)
    else:
        result, lse = passes.forward(q, k, v, given, needs_lse)
    if padded:
        result = result[..., :head_dim_v]
    return result if out is None else copy_exactly("out", out, result), lse, given


def prepare(q: Tensor, k: Tensor, v: Tensor, given: Options) -> None:
    """See flashattn.prepare."""
    if not _checked(q, k, v, None, given):
        raise TypeError("q: only plain tensors can be prepared for, outside of torch.compile")
    with torch.no_grad():
        q, k, v, given = _as_the_library_takes_them(q, k, v, given)
        passes.prepare(q, k, v, given)


def _checked(q: Any, k: Any, v: Any, out: Any, given: Options) -> bool:
    """Whether the call may go straight to the library, after the checks that the library, or an
    operator, does not make by the argument's name."""
    if out is None and not has_tensors(given):
        direct = is_direct(q, k, v)
    else:
        direct = is_direct(q, k, v, *(t for t in (out, *given[:TENSORS]) if t is not None))
    if not direct:
        others = {**dict(zip(Options._fields[:TENSORS], given)), "out": out}
        optional = {name: t for name, t in others.items() if t is not None}
        need_tensors(q=q, k=k, v=v, **optional)
        need_device(q.device, k=k, v=v, **optional)
        if forward_ad._current_level >= 0 and not torch.compiler.is_compiling():
            refuse_tangents(q, k, v, *optional.values())
    if q.dim() < 3 or v.dim() < 3:
        need_shape_of_heads(q=q, v=v)
    return direct


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
    return run(out_a, lse_a, out_b, lse_b)
