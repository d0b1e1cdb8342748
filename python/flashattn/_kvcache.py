"""flash_attn_with_kvcache: decoding from a cache of keys and values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._options import Options, family_number, refuse, window_sides
from ._torch import attend, need_tensors
from .layers.rotary import apply_rotary_emb


def flash_attn_with_kvcache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    rotary_cos: Tensor | None = None,
    rotary_sin: Tensor | None = None,
    cache_seqlens: int | Tensor | None = None,
    cache_batch_idx: Tensor | None = None,
    cache_leftpad: Tensor | None = None,
    block_table: Tensor | None = None,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    rotary_interleaved: bool = True,
    alibi_slopes: Tensor | None = None,
    num_splits: int = 0,
    return_softmax_lse: bool = False,
    *,
    sinks: Tensor | None = None,
    batch_invariant: bool = False,
    family: str = "auto",
    out: Tensor | None = None,
) -> Any:
    """Attention of q to a cache, after k and v were appended to it in place.

    Args:
        q: [B, Sq, Hq, D].
        k_cache, v_cache: [B or more, S_cache, Hk, D]; read up to cache_seqlens (plus what is new).
        k, v: [B, S_new, Hk, D], written to the cache from cache_seqlens on.
        rotary_cos, rotary_sin: [at least the longest position, rotary_dim / 2]: rotate k, and q, by
            their positions; with neither causal nor window all of q is at position cache_seqlens.
        cache_seqlens: int or int32 [B]: how much of the cache counts; all of it when not given.
        cache_batch_idx: int [B]: which sequence of the cache each of q's has.
        cache_leftpad, block_table: not offered (NotImplementedError).
        num_splits: how often keys are split is the plan's choice; the result does not depend on it.
        The rest as flash_attn_func. There is no gradient.

    Returns:
        out [B, Sq, Hq, Dv], or (out, lse [B, Hq, Sq]).
    """
    refuse(cache_leftpad=cache_leftpad, block_table=block_table)
    need_tensors(q=q, k_cache=k_cache, v_cache=v_cache)
    if (k is None) != (v is None):
        raise ValueError("k, v: only one is given; new keys come with their values")
    if (rotary_cos is None) != (rotary_sin is None):
        raise ValueError("rotary_cos, rotary_sin: only one is given")
    with torch.no_grad():
        lengths = _lengths(cache_seqlens, q, k_cache)
        if rotary_cos is not None and rotary_sin is not None:
            if k is None:
                raise ValueError("rotary_cos: only with new keys k and v")
            rotate = _Rotation(rotary_cos, rotary_sin, rotary_interleaved)
            k = rotate.by_position(k, lengths)
            local = causal or tuple(window_size) != (-1, -1)
            q = rotate.by_position(q, lengths) if local else rotate.all_at(q, lengths)
        if k is not None and v is not None:
            _append(k_cache, k, lengths, cache_batch_idx, "k")
            _append(v_cache, v, lengths, cache_batch_idx, "v")
            lengths = lengths + k.shape[1]
        window_left, window_right = window_sides(window_size)
        options = Options(
            alibi_slopes=alibi_slopes,
            sinks=sinks,
            seqused_k=lengths,
            scale=softmax_scale,
            causal=causal,
            window_left=window_left,
            window_right=window_right,
            softcap=softcap,
            batch_invariant=batch_invariant,
            family=family_number(family),
        )
        if cache_batch_idx is None:
            result, lse, _ = attend(q, k_cache, v_cache, out, options)
        else:
            result, lse = _one_by_one(q, k_cache, v_cache, cache_batch_idx, options)
            result = result if out is None else out.copy_(result)
    return (result, lse) if return_softmax_lse else result


def _lengths(cache_seqlens: int | Tensor | None, q: Tensor, k_cache: Tensor) -> Tensor:
    """int32 [B], within the cache."""
    given = k_cache.shape[1] if cache_seqlens is None else cache_seqlens
    if not isinstance(given, Tensor):
        given = torch.full((q.shape[0],), given, dtype=torch.int32, device=q.device)
    if given.shape != (q.shape[0],) or given.dtype != torch.int32:
        raise ValueError(
            f"cache_seqlens: is {given.dtype} {list(given.shape)};"
            f" expected an integer or int32 [{q.shape[0]}]"
        )
    return given


def _append(
    cache: Tensor, new: Tensor, lengths: Tensor, batch_idx: Tensor | None, name: str
) -> None:
    """cache[b, lengths[b] : lengths[b] + S_new] = new[b]"""
    need_tensors(**{name: new})
    if lengths.numel() > 0 and int(lengths.max()) + new.shape[1] > cache.shape[1]:
        raise ValueError(
            f"{name}: {new.shape[1]} new keys after {int(lengths.max())} do not fit into a cache of"
            f" {cache.shape[1]}"
        )
    if lengths.numel() > 0 and int(lengths.min()) < 0:
        raise ValueError(f"cache_seqlens: is {int(lengths.min())}; it must not be negative")
    b = torch.arange(new.shape[0], device=cache.device) if batch_idx is None else batch_idx.long()
    position = lengths.long()[:, None] + torch.arange(new.shape[1], device=cache.device)
    cache[b[:, None], position] = new.to(cache.dtype)


class _Rotation:
    def __init__(self, cos: Tensor, sin: Tensor, interleaved: bool) -> None:
        self.cos, self.sin, self.interleaved = cos, sin, interleaved

    def by_position(self, x: Tensor, first: Tensor) -> Tensor:
        return apply_rotary_emb(x, self.cos, self.sin, self.interleaved, seqlen_offsets=first)

    def all_at(self, x: Tensor, position: Tensor) -> Tensor:
        """Every row of x [B, S, H, D] at one position: rows become heads and back."""
        batch, rows, heads, dim = x.shape
        flat = x.reshape(batch, 1, rows * heads, dim)
        return self.by_position(flat, position).reshape(batch, rows, heads, dim)


def _one_by_one(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, batch_idx: Tensor, options: Options
) -> tuple[Tensor, Tensor]:
    """Each sequence from its place in the cache, without a copy of the cache."""
    outs, lses = [], []
    for b, place in enumerate(batch_idx.tolist()):
        if not 0 <= place < k_cache.shape[0]:
            raise ValueError(
                f"cache_batch_idx: is {place} for sequence {b}; the cache has {k_cache.shape[0]}"
            )
        one, cached = slice(b, b + 1), slice(place, place + 1)
        slopes = options.alibi_slopes
        if slopes is not None and slopes.dim() == 2:
            slopes = slopes[one]
        its = options._replace(alibi_slopes=slopes, seqused_k=options.seqused_k[one])
        out, lse, _ = attend(q[one], k_cache[cached], v_cache[cached], None, its)
        outs.append(out)
        lses.append(lse)
    return torch.cat(outs), torch.cat(lses)
