"""flash_attn_with_kvcache: decoding from a cache of keys and values."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Iterator
from typing import Any, Literal, overload

import torch
from torch import Tensor
from typing_extensions import Unpack

from ._options import (
    TENSORS,
    Options,
    family_number,
    flag,
    real_number,
    refuse,
    scale_or_none,
    window_sides,
)
from ._pages import named, need_pages
from ._torch import (
    attend,
    copy_exactly,
    fakes,
    in_autocast,
    is_direct,
    length,
    need_head_dims,
    need_shape_of_heads,
    need_tensors,
    operators,
    shape_of,
    sharding,
)
from ._types import MoreOfCache, Window
from .layers.rotary import apply_rotary_emb


# fmt: off
@overload
def flash_attn_with_kvcache(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Tensor | None = ..., v: Tensor | None = ...,
    rotary_cos: Tensor | None = ..., rotary_sin: Tensor | None = ...,
    cache_seqlens: int | Tensor | None = ..., cache_batch_idx: Tensor | None = ...,
    cache_leftpad: None = ..., block_table: Tensor | None = ..., softmax_scale: float | None = ...,
    causal: bool = ..., window_size: Window = ..., softcap: float = ...,
    rotary_interleaved: bool = ..., alibi_slopes: Tensor | None = ..., num_splits: int = ...,
    return_softmax_lse: Literal[False] = ..., **more: Unpack[MoreOfCache]
) -> Tensor: ...
@overload
def flash_attn_with_kvcache(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Tensor | None = ..., v: Tensor | None = ...,
    rotary_cos: Tensor | None = ..., rotary_sin: Tensor | None = ...,
    cache_seqlens: int | Tensor | None = ..., cache_batch_idx: Tensor | None = ...,
    cache_leftpad: None = ..., block_table: Tensor | None = ..., softmax_scale: float | None = ...,
    causal: bool = ..., window_size: Window = ..., softcap: float = ...,
    rotary_interleaved: bool = ..., alibi_slopes: Tensor | None = ..., num_splits: int = ..., *,
    return_softmax_lse: Literal[True], **more: Unpack[MoreOfCache]
) -> tuple[Tensor, Tensor]: ...
@overload
def flash_attn_with_kvcache(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Tensor | None = ..., v: Tensor | None = ...,
    rotary_cos: Tensor | None = ..., rotary_sin: Tensor | None = ...,
    cache_seqlens: int | Tensor | None = ..., cache_batch_idx: Tensor | None = ...,
    cache_leftpad: None = ..., block_table: Tensor | None = ..., softmax_scale: float | None = ...,
    causal: bool = ..., window_size: Window = ..., softcap: float = ...,
    rotary_interleaved: bool = ..., alibi_slopes: Tensor | None = ..., num_splits: int = ...,
    return_softmax_lse: bool = ..., **more: Unpack[MoreOfCache]
) -> Tensor | tuple[Tensor, Tensor]: ...
# fmt: on
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
    window_size: Window = (-1, -1),
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
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of q to a cache, after k and v were appended to it in place.

    Args:
        q: [B, Sq, Hq, D].
        k_cache, v_cache: [B or more, S_cache, Hk, D]; read up to cache_seqlens (plus what is new).
        k, v: [B, S_new, Hk, D], written to the cache from cache_seqlens on.
        rotary_cos, rotary_sin: [at least the longest position, rotary_dim / 2]: rotate k, and q, by
            their positions; with neither causal nor window all of q is at position cache_seqlens.
        cache_seqlens: int or int32 [B]: how much of the cache counts; all of it when not given. On
            CUDA the host does not read a tensor: the caller must see to it that new keys fit.
        cache_batch_idx: int [B]: which sequence of the cache each of q's has. On CUDA the host does
            not read it: a number of no sequence is taken for the nearest one.
        block_table: int32 [B, N]; the caches are pages then, [pages, page_size, Hk, D], and row j
            of a sequence is row j % page_size of page block_table[b, j // page_size]. On CUDA the
            host does not read it: numbers of no page are taken for the nearest one.
        cache_leftpad: not offered (NotImplementedError).
        num_splits: taken for compatibility; the plan chooses how often keys are split.
        The rest as flash_attn_func. There is no gradient.

    Returns:
        out [B, Sq, Hq, Dv], or (out, lse [B, Hq, Sq]).
    """
    refuse(cache_leftpad=cache_leftpad)
    need_tensors(q=q, k_cache=k_cache, v_cache=v_cache)
    need_shape_of_heads(q=q, k_cache=k_cache, v_cache=v_cache)
    more: dict[str, Any] = dict(
        rotary_cos=rotary_cos, rotary_sin=rotary_sin, cache_batch_idx=cache_batch_idx
    )
    more.update(cache_seqlens=cache_seqlens, alibi_slopes=alibi_slopes, sinks=sinks, out=out)
    sharding.refuse(q=q, k_cache=k_cache, v_cache=v_cache, k=k, v=v, **more)
    if shape_of(v_cache)[:-1] != shape_of(k_cache)[:-1]:
        raise ValueError(
            f"v_cache: has the shape {list(shape_of(v_cache))}; it must agree with k_cache's"
            f" {list(shape_of(k_cache))} but for the last extent"
        )
    need_head_dims(q, k_cache, v_cache, _CACHES)
    rotary_interleaved = flag("rotary_interleaved", rotary_interleaved)
    return_softmax_lse = flag("return_softmax_lse", return_softmax_lse)
    length("num_splits", num_splits)
    window_left, window_right = window_sides(window_size)
    if block_table is not None:
        need_pages(block_table)
        if cache_batch_idx is not None:
            raise ValueError("cache_batch_idx: is given with block_table; allowed is one of them")
    options = Options(
        alibi_slopes=alibi_slopes,
        sinks=sinks,
        page_table=block_table,
        scale=scale_or_none("softmax_scale", softmax_scale),
        causal=flag("causal", causal),
        window_left=window_left,
        window_right=window_right,
        softcap=real_number("softcap", softcap),
        batch_invariant=flag("batch_invariant", batch_invariant),
        family=family_number(family),
    )
    with torch.no_grad():
        q, room = in_autocast(q), _room(k_cache, block_table, lambda t: t.shape)
        lengths = _lengths(cache_seqlens, q, room)
        new = (k, v, rotary_cos, rotary_sin, rotary_interleaved, cache_batch_idx)
        tensors = [t for t in (*new, out, *options[:TENSORS]) if isinstance(t, Tensor)]
        direct = is_direct(q, k_cache, v_cache, lengths, *tensors)
        if direct or (k is None and v is None and cache_batch_idx is None):
            known = _known(cache_seqlens, lengths, room) if direct else []
            result, lse = _attend_to_cache(
                q, k_cache, v_cache, lengths, *new, options, known, out, return_softmax_lse
            )
        else:  # a tracer would record what the host read, and the changed cache, as constants
            result, lse = torch.ops.flashattn.with_kvcache(
                q, k_cache, v_cache, lengths, *new, *options
            )
            result = result if out is None else copy_exactly("out", out, result)
    return (result, lse) if return_softmax_lse else result


def _attend_to_cache(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    lengths: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    rotary_cos: Tensor | None,
    rotary_sin: Tensor | None,
    rotary_interleaved: bool,
    cache_batch_idx: Tensor | None,
    options: Options,
    known: list[int],
    out: Tensor | None = None,
    needs_lse: bool = True,
) -> tuple[Tensor, Any]:
    """out and lse. known: the lengths, as far as the host knows them."""
    table = options.page_table
    if cache_batch_idx is not None:
        table = _one_page_each(cache_batch_idx, q, k_cache)
    else:
        _need_as_many(q, k_cache, table)
    new = _New(k, v, q, k_cache, v_cache, table, lengths, known)
    if rotary_cos is not None or rotary_sin is not None:
        local = options.causal or options.window_left >= 0 or options.window_right >= 0
        farthest = max(known, default=0) + max(new.rows, q.shape[1] if local else 0)
        rotate = _Rotation(rotary_cos, rotary_sin, rotary_interleaved, new, farthest)
        new.k = rotate.by_position(new.k, lengths)
        q = rotate.by_position(q, lengths) if local else rotate.all_at(q, lengths)
    used = lengths + new.rows if new.rows > 0 else lengths
    options = options._replace(seqused_k=used, page_table=table)
    with new.appended():
        return _attend(q, k_cache, v_cache, out, options, needs_lse)


def _attend(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    out: Tensor | None,
    options: Options,
    needs_lse: bool = True,
) -> tuple[Tensor, Any]:
    try:
        result, lse, _ = attend(q, k_cache, v_cache, out, options, needs_lse)
    except (ValueError, TypeError) as error:
        raise _by_the_callers_name(error) from None
    return result, lse


_CACHES = ("k_cache", "v_cache")


def _by_the_callers_name(error: Exception) -> Exception:
    """attention's error with the names used here, where its k is k_cache, and k the new keys."""
    return named(error, **dict(zip("kv", _CACHES)), seqused_k="cache_seqlens")


def _with_kvcache(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, lengths: Tensor, *more: Any
) -> tuple[Tensor, Tensor]:
    k, v, cos, sin, interleaved, places, *options = more
    given = Options._make(options)
    known = [] if lengths.is_cuda else lengths.tolist()
    return _attend_to_cache(
        q, k_cache, v_cache, lengths, k, v, cos, sin, interleaved, places, given, known
    )


def _fake_with_kvcache(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, lengths: Tensor, *more: Any
) -> tuple[Tensor, Tensor]:
    k, v, _, _, _, places, *options = more
    given = Options._make(options)
    if places is None:
        _need_as_many(q, k_cache, given.page_table)
    else:
        _need_places(places, q)
        given = given._replace(page_table=places[:, None].int())
    _New(k, v, q, k_cache, v_cache, given.page_table, lengths, [])

    def wide(t: Tensor) -> Tensor:  # for q's sequences, or pages, head_dim padded
        batch = t.shape[0] if given.page_table is not None else q.shape[0]
        return t.new_empty((batch, *t.shape[1:-1], t.shape[-1] + -t.shape[-1] % 8))

    given = given._replace(seqused_k=lengths)
    try:
        out, lse = fakes.forward(wide(q), wide(k_cache), wide(v_cache), *given)
    except (ValueError, TypeError) as error:
        raise _by_the_callers_name(error) from None
    return out.new_empty((*out.shape[:-1], v_cache.shape[-1])), lse


operators.register(
    "with_kvcache(Tensor q, Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor cache_seqlens,"
    " Tensor? k, Tensor? v, Tensor? rotary_cos, Tensor? rotary_sin, bool rotary_interleaved,"
    f" Tensor? cache_batch_idx, {operators.OPTIONS}) -> (Tensor, Tensor)",
    _with_kvcache,
    _fake_with_kvcache,
    vmap=False,
)


def _room(k_cache: Tensor, block_table: Tensor | None, shape: Any = shape_of) -> Any:
    """How many keys a sequence of the cache may have. shape: of a tensor, as `shape_of`."""
    return shape(k_cache)[1] * (1 if block_table is None else shape(block_table)[1])


def _lengths(cache_seqlens: int | Tensor | None, q: Tensor, room: Any) -> Tensor:
    """int32 [B]."""
    batch = shape_of(q)[0]
    given: Any = room if cache_seqlens is None else cache_seqlens
    if not isinstance(given, Tensor):
        given = length("cache_seqlens", given)
        if type(given) is int and not 0 <= given < 2**31:
            raise _out_of_range(given, int(room))
        given = torch.full((batch,), given, dtype=torch.int32, device=q.device)
    elif cache_seqlens is None:  # torch.jit.trace makes a tensor of the extent
        given = given.to(torch.int32).expand(batch)
    if shape_of(given) != (batch,) or given.dtype != torch.int32:
        raise ValueError(
            f"cache_seqlens: is {given.dtype} {list(shape_of(given))};"
            f" expected an integer or int32 [{batch}]"
        )
    return given


def _out_of_range(used: int, room: int) -> ValueError:
    return ValueError(f"cache_seqlens: is {used}; allowed are 0 to {room}, the cache's length")


def _known(cache_seqlens: int | Tensor | None, lengths: Tensor, room: int) -> list[int]:
    """The lengths, as far as the host knows them without waiting for a device."""
    if cache_seqlens is None:
        return [room]
    if not isinstance(cache_seqlens, Tensor):
        return [operator.index(cache_seqlens)]
    return [] if lengths.is_cuda else lengths.tolist()


def _need_as_many(q: Tensor, k_cache: Tensor, block_table: Tensor | None) -> None:
    cached, given = shape_of(k_cache)[0], shape_of(q)[0]
    if block_table is not None:
        if shape_of(block_table)[0] != given:
            raise ValueError(f"block_table: has {shape_of(block_table)[0]} sequences and q {given}")
    elif cached != given:
        raise ValueError(
            f"k_cache: has {cached} sequences and q {given}; cache_batch_idx says which are meant"
        )


def _need_places(cache_batch_idx: Tensor, q: Tensor) -> None:
    need_tensors(cache_batch_idx=cache_batch_idx)
    integers = not cache_batch_idx.is_floating_point() and cache_batch_idx.dtype != torch.bool
    if cache_batch_idx.shape != (q.shape[0],) or not integers:
        raise ValueError(
            f"cache_batch_idx: is {cache_batch_idx.dtype} {list(cache_batch_idx.shape)};"
            f" expected integers [{q.shape[0]}]"
        )


def _one_page_each(cache_batch_idx: Tensor, q: Tensor, k_cache: Tensor) -> Tensor:
    """The page table of a cache whose sequences are pages."""
    _need_places(cache_batch_idx, q)
    count = k_cache.shape[0]
    if cache_batch_idx.is_cuda:
        return cache_batch_idx.long().clamp(0, count - 1).int()[:, None]
    for b, place in enumerate(cache_batch_idx.tolist()):
        if not 0 <= place < count:
            raise ValueError(f"cache_batch_idx: is {place} for sequence {b}; the cache has {count}")
    return cache_batch_idx.int()[:, None].to(q.device)


class _New:
    """New keys and values [B, S_new, Hk, D], or none. Checks them, then appends them."""

    def __init__(
        self,
        k: Tensor | None,
        v: Tensor | None,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        block_table: Tensor | None,
        lengths: Tensor,
        known: list[int],
    ) -> None:
        self.k: Any = k
        self.v = v
        self.rows = 0
        self._caches = k_cache, v_cache
        self._lengths, self._table = lengths, block_table
        room = _room(k_cache, block_table)
        for used in known:
            if not 0 <= used <= room:
                raise _out_of_range(used, room)
        if k is None and v is None:
            return
        if k is None or v is None:
            raise ValueError("k, v: only one is given; new keys come with their values")
        need_tensors(k=k, v=v)
        if torch._C._is_any_autocast_enabled():
            self.k, self.v = k, v = k.to(k_cache.dtype), v.to(v_cache.dtype)
        for name, t, cache in (("k", k, k_cache), ("v", v, v_cache)):
            expected = (q.shape[0], *k.shape[1:2], *cache.shape[2:])
            if t.shape != expected or t.dtype != cache.dtype:
                raise ValueError(
                    f"{name}: is {t.dtype} {list(t.shape)}; expected {cache.dtype} {list(expected)}"
                )
        self.rows = k.shape[1]
        for used in known:
            if used + self.rows > room:
                raise ValueError(
                    f"k: {self.rows} new keys after {used} do not fit into a cache of {room}"
                )

    @contextlib.contextmanager
    def appended(self) -> Iterator[None]:
        """cache[b, lengths[b] : lengths[b] + S_new] = new[b]; undone if the call raises."""
        if self.rows == 0:
            yield
            return
        device = self._lengths.device
        position = self._lengths.long()[:, None] + torch.arange(self.rows, device=device)
        if self._table is not None:
            at = self._in_pages(self._table, position)
        else:
            at = torch.arange(len(self._lengths), device=device)[:, None], position
        before = [cache[at] for cache in self._caches]
        for cache, new in zip(self._caches, (self.k, self.v)):
            cache[at] = new
        try:
            yield
        except Exception:
            for cache, old in zip(self._caches, before):
                cache[at] = old
            raise

    def _in_pages(self, table: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """The pages of positions [B, S_new], and the rows in them."""
        pages, size = self._caches[0].shape[:2]
        page = table.gather(1, position // size).long()
        if page.is_cuda:
            return page.clamp(0, pages - 1), position % size
        for number in page.flatten().tolist():
            if not 0 <= number < pages:
                raise ValueError(
                    f"block_table: is {number} for a page of new keys; allowed are 0 to {pages - 1}"
                )
        return page, position % size


class _Rotation:
    def __init__(
        self,
        cos: Tensor | None,
        sin: Tensor | None,
        interleaved: bool,
        new: _New,
        farthest: int,
    ) -> None:
        if cos is None or sin is None:
            raise ValueError("rotary_cos, rotary_sin: only one is given")
        if new.k is None:
            raise ValueError("rotary_cos: only with new keys k and v")
        need_tensors(rotary_cos=cos, rotary_sin=sin)
        if cos.dim() != 2 or cos.shape != sin.shape:
            raise ValueError(
                f"rotary_cos, rotary_sin: have the shapes {list(cos.shape)}, {list(sin.shape)};"
                " expected both [positions, rotary_dim / 2]"
            )
        if farthest > cos.shape[0]:
            raise ValueError(
                f"rotary_cos: has {cos.shape[0]} positions; the sequences grow to {farthest}"
            )
        self.cos, self.sin, self.interleaved = cos, sin, interleaved

    def by_position(self, x: Tensor, first: Tensor) -> Tensor:
        return apply_rotary_emb(x, self.cos, self.sin, self.interleaved, seqlen_offsets=first)

    def all_at(self, x: Tensor, position: Tensor) -> Tensor:
        """Every row of x [B, S, H, D] at one position: rows become heads and back."""
        batch, rows, heads, dim = x.shape
        flat = x.reshape(batch, 1, rows * heads, dim)
        return self.by_position(flat, position).reshape(batch, rows, heads, dim)
