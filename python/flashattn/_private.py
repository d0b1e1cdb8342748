"""flash_attn's private names, which ring attention, Megatron and others call: signatures and
returns of flash_attn 2.8."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._options import Options, flag, refuse, scale_or_none, whole_number
from ._pages import need_pages, used_of_pages
from ._probabilities import dropout_mask
from ._torch import copy_exactly, length, new_dropout_state


def _get_block_size_n(
    device: torch.device, head_dim: int, is_dropout: bool, is_causal: bool
) -> int:
    """The number of keys in a tile. flash_attn's own tests undo the scaling of S_dmask with it.
    Here any number is right, because S_dmask holds the probabilities themselves."""
    return 128


def _read(scale: Any, causal: Any, left: Any, right: Any) -> dict[str, Any]:
    """Fields of Options. Errors have the caller's names of them."""
    return dict(
        scale=scale_or_none("softmax_scale", scale),
        causal=flag("causal", causal),
        window_left=whole_number("window_size_left", left),
        window_right=whole_number("window_size_right", right),
    )


def _private_forward(
    q: Tensor, k: Tensor, v: Tensor, return_softmax: bool, given: Options
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return_softmax = flag("return_softmax", return_softmax)
    state = given.dropout_state
    if state is None:
        state = torch.zeros(2, dtype=torch.int64, device=q.device)
    out, lse = torch.ops.flashattn.forward(q, k, v, *given)
    empty = torch.empty((0,), dtype=q.dtype, device=q.device)
    return out, lse, dropout_mask(q, k, lse, given) if return_softmax else empty, state


def _flash_attn_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: Tensor | None,
    return_softmax: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """out, lse, S_dmask, rng_state = int64 [2] (seed, offset)."""
    given = Options(
        alibi_slopes=alibi_slopes,
        dropout_state=new_dropout_state(q.device) if dropout_p > 0 else None,
        **_read(softmax_scale, causal, window_size_left, window_size_right),
        softcap=softcap,
        dropout_p=dropout_p,
    )
    return _private_forward(q, k, v, return_softmax, given)


def _flash_attn_varlen_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    return_softmax: bool = False,
    block_table: Tensor | None = None,
    leftpad_k: Tensor | None = None,
    seqused_k: Tensor | None = None,
    zero_tensors: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """out, lse, S_dmask, rng_state = int64 [2] (seed, offset)."""
    refuse(leftpad_k=leftpad_k)
    max_seqlen_k = length("max_seqlen_k", max_seqlen_k)
    bounds: Tensor | None = cu_seqlens_k
    if block_table is not None:
        need_pages(block_table)
        seqused_k, bounds, max_seqlen_k = used_of_pages(cu_seqlens_k, seqused_k), None, 0
    given = Options(
        alibi_slopes=alibi_slopes,
        dropout_state=new_dropout_state(q.device) if dropout_p > 0 else None,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=bounds,
        seqused_k=seqused_k,
        page_table=block_table,
        max_seqlen_q=length("max_seqlen_q", max_seqlen_q),
        max_seqlen_k=max_seqlen_k,
        **_read(softmax_scale, causal, window_size_left, window_size_right),
        softcap=softcap,
        dropout_p=dropout_p,
    )
    return _private_forward(q, k, v, return_softmax, given)


def _private_backward(
    inputs: tuple[Tensor, ...], results: tuple[Tensor | None, ...], given: Options
) -> Tensor:
    """Writes dq, dk, dv where they are given. Returns delta, its rows padded to 128."""
    dout, q, k, v, out, lse = inputs
    if given.dropout_p > 0 and given.dropout_state is None:
        raise ValueError("rng_state: is missing; with dropout it is that of the forward pass")
    gradients = torch.ops.flashattn.backward(dout, None, q, k, v, out, lse, False, False, *given)
    for name, result, gradient in zip(("dq", "dk", "dv"), results, gradients):
        if result is not None:
            copy_exactly(name, result, gradient)
    delta = (dout.float() * out.float()).sum(-1).transpose(-1, -2)
    return torch.nn.functional.pad(delta, (0, -delta.shape[-1] % 128)).contiguous()


def _flash_attn_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    softmax_lse: Tensor,
    dq: Tensor | None,
    dk: Tensor | None,
    dv: Tensor | None,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: Tensor | None,
    deterministic: bool,
    rng_state: Tensor | None = None,
) -> Tensor:
    """Writes dq, dk, dv; returns sum(dout * out), float32 [B, Hq, Sq rounded up to 128]."""
    given = Options(
        alibi_slopes=alibi_slopes,
        dropout_state=rng_state if dropout_p > 0 else None,
        **_read(softmax_scale, causal, window_size_left, window_size_right),
        softcap=softcap,
        dropout_p=dropout_p,
        deterministic=flag("deterministic", deterministic),
    )
    return _private_backward((dout, q, k, v, out, softmax_lse), (dq, dk, dv), given)


def _flash_attn_varlen_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    softmax_lse: Tensor,
    dq: Tensor | None,
    dk: Tensor | None,
    dv: Tensor | None,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int,
    window_size_right: int,
    softcap: float,
    alibi_slopes: Tensor | None,
    deterministic: bool,
    rng_state: Tensor | None = None,
    zero_tensors: bool = False,
) -> Tensor:
    """Writes dq, dk, dv; returns sum(dout * out), float32 [Hq, Tq rounded up to 128]."""
    given = Options(
        alibi_slopes=alibi_slopes,
        dropout_state=rng_state if dropout_p > 0 else None,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        max_seqlen_q=length("max_seqlen_q", max_seqlen_q),
        max_seqlen_k=length("max_seqlen_k", max_seqlen_k),
        **_read(softmax_scale, causal, window_size_left, window_size_right),
        softcap=softcap,
        dropout_p=dropout_p,
        deterministic=flag("deterministic", deterministic),
    )
    return _private_backward((dout, q, k, v, out, softmax_lse), (dq, dk, dv), given)
