"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), as flash_attn.layers.rotary."""

from __future__ import annotations

import torch
from torch import Tensor

from .._names import listing
from .._options import flag
from .._torch import is_direct, length, need_tensors, shape_of

__all__ = ["apply_rotary_emb", "apply_rotary_emb_func"]

__dir__ = listing(globals())


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
        cos, sin: [positions, rotary_dim / 2], rotary_dim <= head_dim; a row for each position of x.
        interleaved: pairs are (0, 1), (2, 3), ... (GPT-J) instead of (0, rotary_dim / 2), ...
            (GPT-NeoX).
        inplace: writes into x and returns it.
        seqlen_offsets: position of each sequence's first row: one integer, or int [batch].
        cu_seqlens: int32 [batch + 1], where packed sequences begin.
        max_seqlen: taken for compatibility; lengths come from cu_seqlens.

    Returns:
        x's shape and dtype; computed in float32.
    """
    need_tensors(x=x, cos=cos, sin=sin)
    interleaved, inplace = flag("interleaved", interleaved), flag("inplace", inplace)
    if max_seqlen is not None:
        length("max_seqlen", max_seqlen)
    if not x.is_floating_point():
        raise TypeError(f"x: has dtype {x.dtype}; expected a floating-point number")
    dims = 4 if cu_seqlens is None else 3
    if x.dim() != dims:
        expected = "[batch, seqlen, heads, head_dim]" if dims == 4 else "[tokens, heads, head_dim]"
        raise ValueError(f"x: has the shape {list(shape_of(x))}; expected {expected}")
    table = shape_of(cos)
    if shape_of(sin) != table or len(table) != 2:
        raise ValueError(
            f"cos, sin: have the shapes {tuple(table)}, {tuple(shape_of(sin))};"
            " expected both [positions, rotary_dim / 2]"
        )
    half = table[-1]
    if 2 * half > shape_of(x)[-1]:
        raise ValueError(f"cos: rotates {2 * half} elements, but x has head_dim {shape_of(x)[-1]}")
    position = _positions(x, seqlen_offsets, cu_seqlens)
    if is_direct(x, cos, position) and not position.is_cuda and position.numel() > 0:
        _need_positions(table[0], *(int(end) for end in position.aminmax()))
    c, s = (_at(t, position).unsqueeze(-2).float() for t in (cos, sin))  # [..., 1 (heads), half]
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


def _at(table: Tensor, position: Tensor) -> Tensor:
    """The table's rows at these positions. Unlike table[position] it refuses a negative position,
    also where the host does not read positions."""
    return table.index_select(0, position.flatten()).unflatten(0, position.shape)


def _need_positions(known: int, first: int, last: int) -> None:
    if first < 0:
        raise ValueError(f"seqlen_offsets: leads to position {first}; it must not be negative")
    if last >= known:
        raise ValueError(f"cos: has {known} positions; x reaches position {last}")


def _positions(x: Tensor, offsets: int | Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """Positions [batch or 1, seqlen], or packed [tokens]."""
    sequences = shape_of(x)[0] if cu_seqlens is None else max(shape_of(cu_seqlens)[0] - 1, 0)
    if isinstance(offsets, Tensor):
        if (
            offsets.is_floating_point()
            or offsets.dtype == torch.bool
            or shape_of(offsets) != (sequences,)
        ):
            raise ValueError(
                f"seqlen_offsets: is {offsets.dtype} {list(shape_of(offsets))};"
                f" expected an integer or integers [{sequences}]"
            )
    else:
        offsets = length("seqlen_offsets", offsets)
    if cu_seqlens is None:
        rows = torch.arange(x.shape[1], device=x.device)
        if isinstance(offsets, Tensor):
            return offsets.long()[:, None] + rows
        return (rows + offsets)[None, :]
    rows = torch.arange(x.shape[0], device=x.device)
    sequence = torch.searchsorted(cu_seqlens.long(), rows, right=True) - 1
    sequence = sequence.clamp(0, max(sequences - 1, 0))
    position = rows - cu_seqlens.long()[sequence]
    return position + (offsets.long()[sequence] if isinstance(offsets, Tensor) else offsets)
