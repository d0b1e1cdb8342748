"""Padded batches to packed sequences and back, as flash_attn.bert_padding offers it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._names import listing
from ._torch import is_traced, length, shape_of

__all__ = [
    "index_first_axis",
    "index_put_first_axis",
    "pad_input",
    "unpad_input",
    "unpad_input_for_concatenated_sequences",
]

__dir__ = listing(globals())


def index_first_axis(x: Tensor, indices: Tensor) -> Tensor:
    """x[indices], differentiable."""
    return x.index_select(0, indices)


def index_put_first_axis(values: Tensor, indices: Tensor, first_axis_dim: int) -> Tensor:
    """Zeros [first_axis_dim, ...] with values at indices, differentiable."""
    rows = _extent("first_axis_dim", first_axis_dim)
    zeros = values.new_zeros((rows, *values.shape[1:]))
    return zeros.index_copy(0, indices, values)


def _cumulative(lengths: Tensor) -> Tensor:
    """int32 [0, l0, l0 + l1, ...]"""
    return torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))


def _extent(name: str, given: Any) -> Any:
    """An integer. A tensor stays a tensor under torch.jit.trace, which would record a constant."""
    return given if isinstance(given, Tensor) and is_traced() else length(name, given)


def _longest(lengths: Tensor) -> Any:
    """An integer, or under torch.jit.trace, which would record a constant, a tensor, which
    flash_attn_varlen_func takes."""
    if shape_of(lengths)[0] == 0:
        return 0
    return lengths.max() if is_traced() else lengths.max().item()


def unpad_input(
    hidden_states: Tensor, attention_mask: Tensor, unused_mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, int, Tensor]:
    """The tokens that a padding mask keeps, one after the other.

    Args:
        hidden_states: [batch, seqlen, ...].
        attention_mask: bool or int [batch, seqlen], 1 for a token, 0 for padding.
        unused_mask: the same shape, 1 where room is kept for a token that does not count.

    Returns:
        tokens [total, ...]; their indices in the flattened batch [total]; cu_seqlens int32
        [batch + 1]; the longest sequence; how many tokens of each count, int32 [batch].
    """
    kept = attention_mask if unused_mask is None else attention_mask + unused_mask
    lengths = kept.sum(dim=-1, dtype=torch.int32)
    used = attention_mask.sum(dim=-1, dtype=torch.int32)
    indices = kept.flatten().nonzero().flatten()
    tokens = index_first_axis(hidden_states.flatten(0, 1), indices)
    return tokens, indices, _cumulative(lengths), _longest(lengths), used


def unpad_input_for_concatenated_sequences(
    hidden_states: Tensor, attention_mask_in_length: Tensor
) -> tuple[Tensor, Tensor, Tensor, int]:
    """unpad_input for rows that hold several sequences each. attention_mask_in_length
    [batch, seqlen] lists the lengths of a row's sequences from the left, then zeros."""
    listed = attention_mask_in_length.flatten()
    lengths = listed[listed.nonzero().flatten()]
    total = attention_mask_in_length.sum(dim=-1, keepdim=True)
    place = torch.arange(attention_mask_in_length.shape[-1], device=total.device)
    indices = (place < total).flatten().nonzero().flatten()
    tokens = index_first_axis(hidden_states.flatten(0, 1), indices)
    return tokens, indices, _cumulative(lengths), _longest(lengths)


def pad_input(hidden_states: Tensor, indices: Tensor, batch: int, seqlen: int) -> Tensor:
    """Tokens [total, ...] back to [batch, seqlen, ...], zeros elsewhere."""
    batch, seqlen = _extent("batch", batch), _extent("seqlen", seqlen)
    padded = index_put_first_axis(hidden_states, indices, batch * seqlen)
    return padded.unflatten(0, (batch, seqlen))
