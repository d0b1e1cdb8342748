"""The functions that vLLM calls of its vllm_flash_attn, by their names and in their order.

import sys, flashattn.vllm
sys.modules["vllm.vllm_flash_attn"] = flashattn.vllm  # before vLLM's attention is imported
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import _flash_attn
from ._names import listing
from ._options import refuse, whole_number

__all__ = ["flash_attn_varlen_func", "get_scheduler_metadata"]
__dir__ = listing(globals())


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    max_seqlen_q: int,
    cu_seqlens_q: Tensor,
    max_seqlen_k: int,
    cu_seqlens_k: Tensor | None = None,
    seqused_k: Tensor | None = None,
    q_v: None = None,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: Sequence[int] | None = None,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
    return_softmax_lse: bool = False,
    out: Tensor | None = None,
    scheduler_metadata: Any = None,
    q_descale: None = None,
    k_descale: None = None,
    v_descale: None = None,
    num_splits: int = 0,
    fa_version: int = 2,
    s_aux: Tensor | None = None,
    cp_world_size: int = 1,
    cp_rank: int = 0,
    cp_tot_seqused_k: None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of packed queries to packed keys, or to the pages of a cache; without gradients.

    Args:
        q: [Tq, Hq, D].
        k, v: [Tk, Hk, D], [Tk, Hk, Dv] with cu_seqlens_k; with block_table pages of a cache,
            [pages, page_size, Hk, D], any page_size and strides.
        max_seqlen_q, max_seqlen_k: at least the longest sequence's length.
        cu_seqlens_q, cu_seqlens_k: int32 [B + 1].
        seqused_k: int32 [B]: how many keys of each sequence count.
        window_size: two numbers, -1 unbounded, or None.
        block_table: int32 [B, N].
        out: [Tq, Hq, Dv], written in place and returned.
        s_aux: sinks, [Hq].
        num_splits: 1 asks for the same bits whatever stands beside a sequence (`batch_invariant`),
            as vLLM does; the plan decides at any other number.
        scheduler_metadata, fa_version: taken and not needed.
        q_v, return_attn_probs, q_descale, k_descale, v_descale, and cp_world_size beyond 1:
            NotImplementedError.
        The rest as flashattn.flash_attn_varlen_func.

    Returns:
        out, or (out, lse [Hq, Tq]).
    """
    refuse(q_v=q_v, q_descale=q_descale, k_descale=k_descale, v_descale=v_descale)
    if return_attn_probs:
        raise NotImplementedError("return_attn_probs: is not offered here")
    if whole_number("cp_world_size", cp_world_size) != 1 or cp_tot_seqused_k is not None:
        raise NotImplementedError("cp_world_size: keys that ranks share are not offered")
    splits = whole_number("num_splits", num_splits)
    attend: Any = _flash_attn.flash_attn_varlen_func  # its overloads are many
    with torch.no_grad():
        result: Tensor | tuple[Tensor, Tensor] = attend(
            q,
            k,
            v,
            cu_seqlens_q,
            cu_seqlens_k,
            max_seqlen_q,
            max_seqlen_k,
            dropout_p,
            softmax_scale,
            causal,
            (-1, -1) if window_size is None else tuple(window_size),
            softcap,
            alibi_slopes,
            deterministic,
            block_table=block_table,
            sinks=s_aux,
            seqused_k=seqused_k,
            batch_invariant=splits == 1,
            out=out,
            return_lse=bool(return_softmax_lse),
        )
    return result


def get_scheduler_metadata(*_: Any, **__: Any) -> None:
    """Nothing: each call counts the keys of its sequences on the device."""
