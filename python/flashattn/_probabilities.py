"""The matrix of probabilities for return_attn_probs, in memory quadratic in the sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _binding
from ._options import TENSORS, Options, scale_or_default
from ._torch import is_direct, operators, passes, refuse_capture


def dropout_mask(q: Tensor, k: Tensor, lse: Any, given: Options) -> Tensor:
    """S_dmask. Without dropout it is empty, as in flash_attn."""
    if given.dropout_p == 0:
        return torch.empty((0,), dtype=q.dtype, device=q.device)
    if given.page_table is not None:
        raise NotImplementedError("return_attn_probs: is not offered with block_table and dropout")
    direct = is_direct(q, k, lse, *(t for t in given[:TENSORS] if t is not None))
    run: Any = _signed_probabilities if direct else torch.ops.flashattn.probabilities
    with torch.no_grad():
        return run(q, k, lse, *given)


def _signed_probabilities(q: Tensor, k: Tensor, lse: Tensor, *options: Any) -> Tensor:
    """P [batch, heads_q, seqlen_q, seqlen_k] before dropout, negative where dropped. It is an
    operator of its own, because it reads lengths and the seed."""
    given = passes.with_maxima(options)
    size = _size(q, k, given)
    result = torch.zeros(size, dtype=torch.float32, device=q.device)
    for b in range(size[0]):
        rows, row_lse = _sequence(q, lse, given.cu_seqlens_q, given.seqused_q, b)
        keys, _ = _sequence(k, None, given.cu_seqlens_k, given.seqused_k, b)
        scores = _scores(rows, keys, b, given)
        known = row_lse.unsqueeze(-1)
        p = torch.where(known == -torch.inf, 0.0, torch.exp(scores - known))
        result[b, :, : rows.shape[0], : keys.shape[0]] = p
    kept = _kept(size, given).to(q.device)
    return torch.where(kept, result, -result).to(q.dtype)


def _size(q: Tensor, k: Tensor, given: Options) -> tuple[Any, ...]:
    if given.cu_seqlens_q is None:
        return q.shape[0], q.shape[2], q.shape[1], k.shape[1]
    if given.max_seqlen_q is None or given.max_seqlen_k is None:
        raise ValueError("max_seqlen_q, max_seqlen_k: must be numbers for return_attn_probs here")
    return given.cu_seqlens_q.shape[0] - 1, q.shape[1], given.max_seqlen_q, given.max_seqlen_k


def _fake_probabilities(q: Tensor, k: Tensor, lse: Tensor, *options: Any) -> Tensor:
    return q.new_empty(_size(q, k, Options._make(options)))


operators.register(
    f"probabilities(Tensor q, Tensor k, Tensor lse, {operators.OPTIONS}) -> Tensor",
    _signed_probabilities,
    _fake_probabilities,
)


def _sequence(
    t: Tensor, lse: Tensor | None, cu_seqlens: Tensor | None, used: Tensor | None, b: int
) -> tuple[Tensor, Any]:
    """Rows [seqlen, heads, head_dim] of one sequence, and their lse [heads, seqlen]."""
    if cu_seqlens is None:
        rows, row_lse = t[b], None if lse is None else lse[b]
    else:
        begin, end = cu_seqlens[b].item(), cu_seqlens[b + 1].item()
        rows, row_lse = t[begin:end], None if lse is None else lse[:, begin:end]
    length = rows.shape[0] if used is None else int(used[b].item())
    return rows[:length], None if row_lse is None else row_lse[:, :length]


def _scores(rows: Tensor, keys: Tensor, b: int, given: Options) -> Tensor:
    """Scores [heads_q, seqlen_q, seqlen_k] as docs/numerics.md defines them."""
    heads_q, heads_k = rows.shape[1], keys.shape[1]
    expanded = keys.float().repeat_interleave(heads_q // heads_k, dim=1)
    s = torch.einsum("ihd,jhd->hij", rows.float(), expanded)
    s = s * scale_or_default(given.scale, rows.shape[-1])
    if given.softcap > 0:
        s = given.softcap * torch.tanh(s / given.softcap)
    i = torch.arange(s.shape[1], device=s.device)[:, None] + s.shape[2] - s.shape[1]
    distance = torch.arange(s.shape[2], device=s.device)[None, :] - i
    if given.alibi_slopes is not None:
        slopes = given.alibi_slopes
        slopes = slopes if slopes.dim() == 1 else slopes[b]
        s = s - slopes[:, None, None] * distance.abs()
    if given.bias is not None:
        bias = given.bias[b if given.bias.shape[0] > 1 else 0]
        s = s + bias[:, : s.shape[1], : s.shape[2]]
    right = 0 if given.causal else given.window_right
    if right >= 0:
        s = s.masked_fill(distance > right, -torch.inf)
    if given.window_left >= 0:
        s = s.masked_fill(distance < -given.window_left, -torch.inf)
    return s


def _kept(size: tuple[int, ...], given: Options) -> Tensor:
    refuse_capture("return_attn_probs: dropout's state", given.dropout_state)
    seed, offset = given.dropout_state.tolist()
    keep = torch.empty(size, dtype=torch.uint8, device="cpu")
    _binding.dropout_keep(keep, seed, offset, given.dropout_p)
    return keep.bool()
