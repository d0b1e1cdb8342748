"""flash_attn_func and flash_attn_varlen_func. flash_attn_interface describes the shapes."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import Tensor
from typing_extensions import Unpack

from ._options import (
    LARGEST,
    Options,
    family_number,
    flag,
    new_options,
    real_number,
    scale_or_none,
    window_sides,
)
from ._pages import named, need_pages, used_of_pages
from ._probabilities import dropout_mask
from ._torch import attend, length, need_tensors
from ._types import More, MoreOfPacked, OutAndLse, OutLseAndMask, Results, Window


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor | None,
    return_attn_probs: bool,
    return_lse: bool,
    options: Options,
) -> Any:
    if not (type(return_attn_probs) is type(return_lse) is bool):
        return_attn_probs = flag("return_attn_probs", return_attn_probs)
        return_lse = flag("return_lse", return_lse)
    needs_lse = return_attn_probs or return_lse
    result, lse, given = attend(q, k, v, out, options, needs_lse)
    if return_attn_probs:
        return result, lse, dropout_mask(q, k, lse, given)
    return (result, lse) if return_lse else result


# fmt: off
@overload
def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = ..., softmax_scale: float | None = ...,
    causal: bool = ..., window_size: Window = ..., softcap: float = ...,
    alibi_slopes: Tensor | None = ..., deterministic: bool = ...,
    return_attn_probs: Literal[False] = ..., *, return_lse: Literal[False] = ...,
    **more: Unpack[More]
) -> Tensor: ...
@overload
def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = ..., softmax_scale: float | None = ...,
    causal: bool = ..., window_size: Window = ..., softcap: float = ...,
    alibi_slopes: Tensor | None = ..., deterministic: bool = ...,
    return_attn_probs: Literal[False] = ..., *, return_lse: Literal[True], **more: Unpack[More]
) -> OutAndLse: ...
@overload
def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = ..., softmax_scale: float | None = ...,
    causal: bool = ..., window_size: Window = ..., softcap: float = ...,
    alibi_slopes: Tensor | None = ..., deterministic: bool = ..., *,
    return_attn_probs: Literal[True], return_lse: bool = ..., **more: Unpack[More]
) -> OutLseAndMask: ...
@overload
def flash_attn_func(
    q: Tensor, k: Tensor, v: Tensor, dropout_p: float = ..., softmax_scale: float | None = ...,
    causal: bool = ..., window_size: Window = ..., softcap: float = ...,
    alibi_slopes: Tensor | None = ..., deterministic: bool = ..., return_attn_probs: bool = ..., *,
    return_lse: bool = ..., **more: Unpack[More]
) -> Results: ...
# fmt: on
def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    *,
    bias: Tensor | None = None,
    sinks: Tensor | None = None,
    seqused_q: Tensor | None = None,
    seqused_k: Tensor | None = None,
    batch_invariant: bool = False,
    family: str = "auto",
    out: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | OutAndLse | OutLseAndMask:
    """softmax(scale q k^T) v, differentiable; shapes and keywords as in flash_attn_interface.

    Args:
        q, k, v: the tensors; any strides.
        dropout_p: probability with which an element of the softmax is dropped, 0 <= p < 1. The seed
            comes from torch's generator.
        softmax_scale: factor of the scores, 1 / sqrt(head_dim) by default.
        causal: query i sees key j only if j <= i + Sk - Sq.
        window_size: (left, right), query i sees i + Sk - Sq - left <= j <= i + Sk - Sq + right; -1
            is unbounded.
        softcap: scores become softcap * tanh(score / softcap); 0 is off.
        alibi_slopes: float32 [Hq] or [B, Hq], adds -slope * |i + Sk - Sq - j|; without a gradient.
        deterministic: gradients are the same bit by bit in each run (on the CPU always).
        return_attn_probs: returns (out, lse, S_dmask). S_dmask is for tests: it takes quadratic
            memory, is negative where dropped, and empty without dropout.
        seqused_q, seqused_k: int32 [B], how many rows and keys of each sequence count.

    Returns:
        out, or (out, lse), or (out, lse, S_dmask).

    Raises:
        ValueError, TypeError: an argument, by name. NotImplementedError: a combination not offered.
    """
    window_left, window_right = window_sides(window_size)
    if (
        (
            softmax_scale is not None
            and (type(softmax_scale) is not float or not abs(softmax_scale) <= LARGEST)
        )
        or type(softcap) is not float
        or type(dropout_p) is not float
    ):
        softmax_scale, softcap, dropout_p = _numbers(softmax_scale, softcap, dropout_p)
    if not (type(causal) is type(deterministic) is type(batch_invariant) is bool):
        causal = flag("causal", causal)
        deterministic = flag("deterministic", deterministic)
        batch_invariant = flag("batch_invariant", batch_invariant)
    options = new_options(
        Options,
        alibi_slopes=alibi_slopes,
        bias=bias,
        sinks=sinks,
        seqused_q=seqused_q,
        seqused_k=seqused_k,
        scale=softmax_scale,
        causal=causal,
        window_left=window_left,
        window_right=window_right,
        softcap=softcap,
        dropout_p=dropout_p,
        deterministic=deterministic,
        batch_invariant=batch_invariant,
        family=family_number(family),
    )
    return _attention(q, k, v, out, return_attn_probs, return_lse, options)


def _numbers(scale: Any, softcap: Any, dropout_p: Any) -> tuple[Any, Any, Any]:
    """The three as floats, or a TypeError by name."""

    def number(name: str, value: Any, read: Any = real_number) -> Any:
        return value if isinstance(value, torch.SymFloat) else read(name, value)

    scale = number("softmax_scale", scale, scale_or_none)
    return scale, number("softcap", softcap), number("dropout_p", dropout_p)


# fmt: off
@overload
def flash_attn_varlen_func(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor | None,
    max_seqlen_q: int, max_seqlen_k: int, dropout_p: float = ..., softmax_scale: float | None = ...,
    causal: bool = ..., window_size: Window = ..., softcap: float = ...,
    alibi_slopes: Tensor | None = ..., deterministic: bool = ...,
    return_attn_probs: Literal[False] = ..., block_table: Tensor | None = ..., *,
    return_lse: Literal[False] = ..., **more: Unpack[MoreOfPacked]
) -> Tensor: ...
@overload
def flash_attn_varlen_func(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor | None,
    max_seqlen_q: int, max_seqlen_k: int, dropout_p: float = ..., softmax_scale: float | None = ...,
    causal: bool = ..., window_size: Window = ..., softcap: float = ...,
    alibi_slopes: Tensor | None = ..., deterministic: bool = ...,
    return_attn_probs: Literal[False] = ..., block_table: Tensor | None = ..., *,
    return_lse: Literal[True], **more: Unpack[MoreOfPacked]
) -> OutAndLse: ...
@overload
def flash_attn_varlen_func(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor | None,
    max_seqlen_q: int, max_seqlen_k: int, dropout_p: float = ..., softmax_scale: float | None = ...,
    causal: bool = ..., window_size: Window = ..., softcap: float = ...,
    alibi_slopes: Tensor | None = ..., deterministic: bool = ..., *,
    return_attn_probs: Literal[True], block_table: Tensor | None = ..., return_lse: bool = ...,
    **more: Unpack[MoreOfPacked]
) -> OutLseAndMask: ...
@overload
def flash_attn_varlen_func(
    q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor | None,
    max_seqlen_q: int, max_seqlen_k: int, dropout_p: float = ..., softmax_scale: float | None = ...,
    causal: bool = ..., window_size: Window = ..., softcap: float = ...,
    alibi_slopes: Tensor | None = ..., deterministic: bool = ..., return_attn_probs: bool = ...,
    block_table: Tensor | None = ..., *, return_lse: bool = ..., **more: Unpack[MoreOfPacked]
) -> Results: ...
# fmt: on
def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor | None,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Window = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
    *,
    sinks: Tensor | None = None,
    seqused_q: Tensor | None = None,
    seqused_k: Tensor | None = None,
    batch_invariant: bool = False,
    family: str = "auto",
    out: Tensor | None = None,
    return_lse: bool = False,
) -> Tensor | OutAndLse | OutLseAndMask:
    """flash_attn_func for sequences packed one after the other.

    Args:
        q, k, v: [Tq, Hq, D], [Tk, Hk, D], [Tk, Hk, Dv].
        cu_seqlens_q, cu_seqlens_k: int32 [B + 1], where sequences begin: from 0, never falling.
        max_seqlen_q, max_seqlen_k: at least the longest sequence's length.
        block_table: int32 [B, N]; k and v are pages of a cache then, [pages, page_size, Hk, D], and
            row j of a sequence is row j % page_size of page block_table[b, j // page_size].
            seqused_k says how many rows a sequence has, or else cu_seqlens_k, which may be None
            beside it. There is no gradient.
        The rest as flash_attn_func; lse is [Hq, Tq].
    """
    need_tensors(cu_seqlens_q=cu_seqlens_q)
    max_seqlen_k = length("max_seqlen_k", max_seqlen_k)
    if block_table is None:
        need_tensors(cu_seqlens_k=cu_seqlens_k)
    else:
        need_pages(block_table)
        seqused_k = used_of_pages(cu_seqlens_k, seqused_k)
        cu_seqlens_k, max_seqlen_k = None, 0
    window_left, window_right = window_sides(window_size)
    softmax_scale, softcap, dropout_p = _numbers(softmax_scale, softcap, dropout_p)
    options = Options(
        alibi_slopes=alibi_slopes,
        sinks=sinks,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        seqused_q=seqused_q,
        seqused_k=seqused_k,
        max_seqlen_q=length("max_seqlen_q", max_seqlen_q),
        page_table=block_table,
        max_seqlen_k=max_seqlen_k,
        scale=softmax_scale,
        causal=flag("causal", causal),
        window_left=window_left,
        window_right=window_right,
        softcap=softcap,
        dropout_p=dropout_p,
        deterministic=flag("deterministic", deterministic),
        batch_invariant=flag("batch_invariant", batch_invariant),
        family=family_number(family),
    )
    if block_table is None:
        return _attention(q, k, v, out, return_attn_probs, return_lse, options)
    try:
        return _attention(q, k, v, out, return_attn_probs, return_lse, options)
    except (ValueError, TypeError) as error:
        raise named(error) from None
