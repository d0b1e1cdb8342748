"""Hugging Face transformers: `register()`, then a model's `attn_implementation="fa_cpp"`.

Memory stays linear: a padding mask becomes lengths, or a bias of [batch, 1, 1, seqlen_k], causal
and sliding masks become the library's own. Only a mask that is none of these (packed sequences told
by position_ids, a static cache, a custom 4D mask) is written out in full, as a bias.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .flash_attn_interface import flash_attn_func


def register(name: str = "fa_cpp") -> None:
    """Adds this library to transformers' attention functions and masks under `name`.

    A name that contains "flash" is refused: transformers takes those for kernels of its hub.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    if "flash" in name:
        raise ValueError(f"name: is {name!r}; transformers loads names with 'flash' from its hub")
    AttentionInterface.register(name, attention_forward)
    AttentionMaskInterface.register(name, attention_mask)


def attention_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | None = None,
    **kwargs: Any,
) -> Tensor | None:
    """What attention_forward gets as its mask: None, a padding mask [batch, kv_length], or, where
    neither says all, a boolean mask [batch, 1, q_length, kv_length]."""
    from transformers.masking_utils import causal_mask_function, sdpa_mask

    function = causal_mask_function if mask_function is None else mask_function
    # The library aligns the last query with the last key.
    aligned = isinstance(q_offset, int) and q_offset + q_length == kv_offset + kv_length
    if not _is_own_mask(function) or not (aligned or _is_bidirectional(function)):
        return sdpa_mask(
            batch_size=batch_size,
            q_length=q_length,
            kv_length=kv_length,
            q_offset=q_offset,  # type: ignore[arg-type]  # a static cache has a tensor
            kv_offset=kv_offset,
            mask_function=function,
            attention_mask=attention_mask,
            **{**kwargs, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False},
        )
    if attention_mask is None:
        return None
    # generate() passes what this function returned to the model, which calls it again.
    padding = attention_mask
    if padding.shape[-1] != kv_length:
        padding = padding[:, kv_offset : kv_offset + kv_length]
    if padding.shape[-1] < kv_length:
        padding = torch.nn.functional.pad(padding, (0, kv_length - padding.shape[-1]))
    return padding


def _is_bidirectional(function: Callable[..., Any]) -> bool:
    from transformers.masking_utils import bidirectional_mask_function

    return function is bidirectional_mask_function


def _is_own_mask(function: Callable[..., Any]) -> bool:
    """Whether the module's is_causal and sliding_window say the same as this mask function."""
    from transformers.masking_utils import causal_mask_function

    if function is causal_mask_function or _is_bidirectional(function):
        return True
    if torch.compiler.is_compiling():
        return False  # dynamo looks into no closure: the mask is written out
    # sliding_window_causal_mask_function: and_masks(sliding_window_overlay(n), causal).
    closed_over = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    parts = closed_over[0] if len(closed_over) == 1 else None
    return (
        isinstance(parts, tuple)
        and len(parts) == 2
        and getattr(parts[0], "__qualname__", "").startswith("sliding_window_overlay.")
        and parts[1] is causal_mask_function
    )


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    cache: Any = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers.

    Args:
        query, key, value: [batch, heads, seqlen, head_dim].
        attention_mask: of `attention_mask` above, or a mask or bias [batch, heads or 1, Sq, Sk].
        s_aux: [heads], attention sinks.

    Returns:
        [batch, seqlen, heads, head_dim], and None for the weights.
    """
    if cache is not None:
        raise NotImplementedError("cache: paged caches are not offered")
    if kwargs.get("output_attentions"):
        raise NotImplementedError(
            "output_attentions: the weights are never written out; use 'eager'"
        )
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    options: dict[str, Any] = dict(causal=causal)
    if sliding_window is not None:
        options["window_size"] = (sliding_window - 1, 0 if causal else sliding_window - 1)
    bias = position_bias
    if attention_mask is not None and attention_mask.dim() == 4:
        options = dict(causal=False)  # the mask says all
        bias = _added(bias, _as_bias(attention_mask, k.shape[1]))
    elif attention_mask is not None:
        lengths = None if bias is not None else _lengths(attention_mask, q.shape[1], k.shape[1])
        if lengths is not None:
            options.update(seqused_q=lengths, seqused_k=lengths)
        else:
            bias = _added(bias, _as_bias(attention_mask[:, None, None, :], k.shape[1]))
    out = flash_attn_func(
        q,
        k,
        v,
        dropout_p=dropout,
        softmax_scale=scaling,
        softcap=softcap or 0.0,
        sinks=s_aux,
        bias=None if bias is None else bias.to(torch.float32),
        **options,
    )
    return out, None


def _lengths(padding: Tensor, seqlen_q: int, seqlen_k: int) -> Tensor | None:
    """int32 [batch] where every sequence of a square problem is padded at its right end; nothing is
    computed for padding then. It takes a look at the mask (on CUDA it waits for the device), which
    a compiled or captured graph cannot have."""
    if seqlen_q != seqlen_k or padding.shape[-1] != seqlen_k or torch.compiler.is_compiling():
        return None
    if padding.is_cuda and torch.cuda.is_current_stream_capturing():
        return None
    padding = padding.bool()
    falls_once = (padding[:, 1:] <= padding[:, :-1]).all()
    return padding.sum(-1, dtype=torch.int32) if bool(falls_once) else None


def _as_bias(mask: Tensor, seqlen_k: int) -> Tensor:
    """0 where a boolean mask is True and -inf elsewhere; a floating one as it is."""
    mask = mask[..., :seqlen_k]
    if mask.dtype != torch.bool:
        if mask.is_floating_point():
            return mask
        mask = mask.bool()
    return torch.zeros(mask.shape, dtype=torch.float32, device=mask.device).masked_fill(
        ~mask, -torch.inf
    )


def _added(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b
