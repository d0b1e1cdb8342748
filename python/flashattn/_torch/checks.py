"""What kind of tensors a call has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)

# Every call asks these: looked up once.
_is_compiling = torch.compiler.is_compiling
_dispatch_modes = torch._C._len_torch_dispatch_stack
_is_function_mode = torch._C._is_torch_function_mode_enabled
_is_functorch = torch._C._are_functorch_transforms_active
_is_grad_enabled = torch.is_grad_enabled
_strided = torch.strided


def is_direct(*tensors: Any) -> bool:
    """Whether nothing but autograd watches these tensors' operations; not of what is no tensor."""
    if (
        _is_compiling()
        or _dispatch_modes() > 0
        or _is_function_mode()
        or _is_functorch()
        or forward_ad._current_level >= 0
    ):
        return False
    for t in tensors:
        if type(t) not in _PLAIN_TYPES or t.is_meta or t.layout is not _strided:
            return False
    return True


def in_functorch() -> bool:
    """Whether torch.func.grad, vmap and their like are at work."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for a gradient of one of these."""
    if _is_grad_enabled():
        for t in tensors:  # any() of a generator takes three times as long
            if t is not None and t.requires_grad:
                return True
    return False


def need_tensors(**tensors: Any) -> None:
    """TypeError for what is no torch.Tensor with strides."""
    for name, t in tensors.items():
        if not isinstance(t, Tensor):
            raise TypeError(
                f"{name}: is {type(t).__name__}; expected a torch.Tensor"
                " (flashattn.attention takes NumPy arrays and other DLPack tensors)"
            )
        if t.layout is not torch.strided:
            raise TypeError(f"{name}: has the layout {t.layout}; expected a strided tensor")


def need_shape_of_heads(**tensors: Tensor) -> None:
    """ValueError for what has no heads and head_dim; the library checks the rest."""
    for name, t in tensors.items():
        if t.dim() < 3:
            raise ValueError(
                f"{name}: has the shape {list(t.shape)}; expected [batch, seqlen, heads, head_dim]"
                " (or packed [tokens, heads, head_dim])"
            )


def refuse_tangents(*tensors: Tensor | None) -> None:
    """Forward-mode derivatives would be lost without a word."""
    for t in tensors:
        if t is not None and forward_ad.unpack_dual(t).tangent is not None:
            raise NotImplementedError("flashattn: forward-mode derivatives are not offered")


def need_device(device: torch.device, of: str = "q", **tensors: Tensor) -> None:
    """ValueError for a tensor elsewhere. The library sees it too, but not behind a fake tensor."""
    for name, t in tensors.items():
        if t.device != device:
            raise ValueError(f"{name}: lies on {t.device}, but {of} on {device}")
