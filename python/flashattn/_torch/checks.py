"""What kind of tensors a call has."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from .._options import WITHOUT_GRADIENT, Options

_PLAIN_TYPES = (Tensor, torch.nn.Parameter)


def _bits(*keys: str) -> int:
    """The dispatcher's keys of these names, as bits."""
    bits = 0
    for key in keys:
        bits |= torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key)).raw_repr()
    return bits


# Any other key belongs to something that watches operators or changes their arguments.
_AUTOGRAD = _bits("ADInplaceOrView", "AutogradCPU", "AutogradCUDA", "AutocastCPU", "AutocastCUDA")
_NOT_PLAIN = ~(_bits("CPU", "CUDA") | _AUTOGRAD)
_WATCHED = ~_bits("BackendSelect", "ADInplaceOrView")

# Each call needs these functions: looked up once, here.
_is_compiling = torch.compiler.is_compiling
_is_function_mode = torch._C._is_torch_function_mode_enabled
_included = torch._C._dispatch_tls_local_include_set
_keys_of = torch._C._dispatch_keys
_is_functorch = torch._C._are_functorch_transforms_active
_is_grad_enabled = torch.is_grad_enabled
_is_tracing = torch._C._is_tracing
_is_excluded = torch._C._dispatch_tls_is_dispatch_key_excluded
_AUTOGRAD_KEY = torch._C.DispatchKey.AutogradFunctionality
_set_tracing_state: Any = getattr(torch._C, "_set_tracing_state")  # noqa: B009 (unknown to mypy)


def is_direct(*tensors: Any) -> bool:
    """Whether nothing but autograd watches these tensors' operations: no tracer, mode or transform,
    no subclass, no lazy negation, no memory elsewhere. False for what is no tensor."""
    if (
        _is_compiling()
        or _is_function_mode()
        or _included().raw_repr() & _WATCHED
        or forward_ad._current_level >= 0
    ):
        return False
    for t in tensors:
        if type(t) not in _PLAIN_TYPES or _keys_of(t).raw_repr() & _NOT_PLAIN:
            return False
    return True


def is_traced() -> bool:
    """Whether torch.jit.trace is at work."""
    return not _is_compiling() and _is_tracing()


def shape_of(t: Tensor) -> torch.Size:
    """The shape in numbers. torch.jit.trace would return tensors, to record their use, and would
    warn where one is compared."""
    if not is_traced():
        return t.shape
    state = torch._C._get_tracing_state()
    _set_tracing_state(None)
    try:
        return t.shape
    finally:
        _set_tracing_state(state)


def in_functorch() -> bool:
    """Whether a transform such as torch.func.grad or vmap is on. functionalize does not count: it
    takes operators as they are, and has no rule for an autograd.Function."""
    if _is_compiling() or not _is_functorch():
        return False
    interpreter = torch._C._functorch.peek_interpreter_stack()
    return (
        interpreter is None or interpreter.key() != torch._C._functorch.TransformType.Functionalize
    )


def needs_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for a gradient of one of these."""
    if _is_grad_enabled():
        for t in tensors:  # any() of a generator takes three times as long
            if t is not None and t.requires_grad:  # compilers have no thread's state to ask
                return _is_compiling() or not _is_excluded(_AUTOGRAD_KEY)
    return False


def refuse_capture(name: str, t: Tensor) -> None:
    """RuntimeError, by name, while a CUDA graph is captured: the host would read t only once."""
    if t.is_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError(f"{name}: is read by the host, which a CUDA graph cannot capture")


def need_tensors(**tensors: Any) -> None:
    """TypeError for what is no torch.Tensor with strides."""
    for name, t in tensors.items():
        if not isinstance(t, Tensor):
            raise TypeError(
                f"{name}: is {type(t).__name__}; expected a torch.Tensor"
                " (flashattn.attention takes NumPy arrays and other DLPack tensors)"
            )
        if t.is_quantized:
            raise TypeError(f"{name}: has dtype {t.dtype}; dequantize() it first")
        if t.is_nested:
            raise TypeError(
                f"{name}: is a nested tensor; flash_attn_varlen_func takes its values and offsets"
            )
        if t.layout is not torch.strided:
            raise TypeError(f"{name}: has the layout {t.layout}; expected a strided tensor")


def need_shape_of_heads(**tensors: Tensor) -> None:
    """ValueError for a tensor without heads and head_dim. The library checks the rest."""
    for name, t in tensors.items():
        if t.dim() < 3:
            raise ValueError(
                f"{name}: has the shape {list(t.shape)}; expected [batch, seqlen, heads, head_dim]"
                " (or packed [tokens, heads, head_dim])"
            )


def need_head_dims(q: Tensor, k: Tensor, v: Tensor, of: tuple[str, str] = ("k", "v")) -> None:
    """ValueError for head_dims that the library refuses, and for unequal ones that padding would
    make equal. The message has the caller's numbers; `of` is what the caller calls k and v."""
    head_dim, of_k, of_v = (shape_of(t)[-1] for t in (q, k, v))
    if of_k != head_dim:
        raise ValueError(f"{of[0]}: has head_dim {of_k}, but q {head_dim}")
    if 568 < head_dim <= 576 and 504 < of_v <= 512:
        return
    for name, given in (("q", head_dim), (of[1], of_v)):
        if not 0 < given <= 512:
            raise ValueError(
                f"{name}: has head_dim {given}; allowed: 1 to 512, or 569 to 576 with 505 to 512"
                " for v"
            )


def refuse_missing_gradients(given: Options) -> None:
    """NotImplementedError for an option that requires a gradient, which would silently be
    missing."""
    for place, name, instead in WITHOUT_GRADIENT:
        t: Any = given[place]
        if t is not None and t.requires_grad and _is_grad_enabled():
            raise NotImplementedError(
                f"{name}: requires a gradient, which is not offered; detach() it, or {instead}"
            )


def refuse_tangents(*tensors: Tensor | None) -> None:
    """NotImplementedError for forward-mode derivatives, which would silently be missing."""
    for t in tensors:
        if t is not None and forward_ad.unpack_dual(t).tangent is not None:
            raise NotImplementedError("flashattn: forward-mode derivatives are not offered")


def need_device(device: torch.device, of: str = "q", **tensors: Tensor) -> None:
    """ValueError for a tensor on another device. The library cannot see it of a fake tensor."""
    for name, t in tensors.items():
        if t.device != device:
            raise ValueError(f"{name}: lies on {t.device}, but {of} on {device}")
