"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), as flash_attn.layers.rotary."""

from __future__ import annotations

import torch
from torch import Tensor


def apply_rotary_emb(
    x: Tensor,
    cos: Tensor,
    sin: Tensor,
    interleaved: bool = False,
    inplace: bool = False,
    seqlen_offsets: int | Tensor = 0,
    cu_seqlens: Tensor | None = None,
    max_seqlen: int | None = None,
) -> Tensor:
    """Rotates the first rotary_dim elements of every head by its position, differentiably.

    Args:
        x: [batch, seqlen, heads, head_dim], or with cu_seqlens [tokens, heads, head_dim].
        cos, sin: [positions, rotary_dim / 2], rotary_dim <= head_dim.
        interleaved: pairs are (0, 1), (2, 3), ... (GPT-J) instead of (0, rotary_dim / 2), ...
            (GPT-NeoX).
        inplace: writes into x and returns it.
        seqlen_offsets: position of each sequence's first row: one integer, or int [batch].
        cu_seqlens: int32 [batch + 1], where packed sequences begin.
        max_seqlen: taken for compatibility; lengths come from cu_seqlens.

    Returns:
        x's shape and dtype; computed in float32.
    """
    half = cos.shape[-1]
    if sin.shape != cos.shape or cos.dim() != 2:
        raise ValueError(
            f"cos, sin: have the shapes {tuple(cos.shape)}, {tuple(sin.shape)};"
            " expected both [positions, rotary_dim / 2]"
        )
    if 2 * half > x.shape[-1]:
        raise ValueError(f"cos: rotates {2 * half} elements, but x has head_dim {x.shape[-1]}")
    position = _positions(x, seqlen_offsets, cu_seqlens)
    c, s = (t[position].unsqueeze(-2).float() for t in (cos, sin))  # [..., 1 (heads), half]
    first, second = _pairs(x, half, interleaved)
    a, b = first.float(), second.float()
    rotated_first, rotated_second = a * c - b * s, a * s + b * c
    if inplace:
        first.copy_(rotated_first)
        second.copy_(rotated_second)
        return x
    if interleaved:
        rotated = torch.stack((rotated_first, rotated_second), dim=-1).flatten(-2)
    else:
        rotated = torch.cat((rotated_first, rotated_second), dim=-1)
    return torch.cat((rotated.to(x.dtype), x[..., 2 * half :]), dim=-1)


apply_rotary_emb_func = apply_rotary_emb


def _pairs(x: Tensor, half: int, interleaved: bool) -> tuple[Tensor, Tensor]:
    """Views of the pairs' first and second elements."""
    if interleaved:
        return x[..., 0 : 2 * half : 2], x[..., 1 : 2 * half : 2]
    return x[..., :half], x[..., half : 2 * half]


def _positions(x: Tensor, offsets: int | Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Positions [batch or 1, seqlen], or packed [tokens]."""
    if cu_seqlens is None:
        rows = torch.arange(x.shape[1], device=x.device)
        if isinstance(offsets, Tensor):
            return offsets.long()[:, None] + rows
        return (rows + offsets)[None, :]
    rows = torch.arange(x.shape[0], device=x.device)
    sequence = torch.searchsorted(cu_seqlens.long(), rows, right=True) - 1
    sequence = sequence.clamp(0, max(cu_seqlens.shape[0] - 2, 0))
    position = rows - cu_seqlens.long()[sequence]
    return position + (offsets.long()[sequence] if isinstance(offsets, Tensor) else offsets)
