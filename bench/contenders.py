"""Who is measured: this library and its peers, each in the layout that is its own."""

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from cells import Cell
from report import OURS
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

MOST_SCORES = 256 << 20  # bytes that the plain formula may store of them; its backward has several


def _serves_all(_: Cell) -> None:
    return None


@dataclass(frozen=True)
class Contender:
    name: str
    package: str  # whose version counts
    attend: Callable[[Tensor, Tensor, Tensor, bool], Tensor]  # q, k, v, causal
    # [batch, heads, seqlen, head_dim], else [batch, seqlen, heads, head_dim].
    heads_first: bool = False
    # What chooses its kernel; entered outside the timed call.
    pinned: Callable[[], AbstractContextManager[Any]] = nullcontext
    # Why it cannot or should not take part in a cell, known beforehand.
    lack: Callable[[Cell], str | None] = _serves_all
    # What it may raise to say that it does not serve a cell. A peer says so as it likes.
    refusals: tuple[type[Exception], ...] = (Exception,)

    def own(self, t: Tensor) -> Tensor:
        """A copy of [batch, seqlen, heads, head_dim] in its layout: nobody pays for a transpose."""
        return self.turned(t).clone(memory_format=torch.contiguous_format)

    def turned(self, t: Tensor) -> Tensor:
        """From the common layout to its own, and back."""
        return t.transpose(1, 2) if self.heads_first else t


def contenders_for(device: str, of_host_time: bool) -> list[Contender]:
    if device == "cuda":
        optional = [_flash_attention_3(), _flash_attention_4()]
        return [_ours(device), *_SDPA_CUDA, *(peer for peer in optional if peer is not None)]
    return [_ours(device), _SDPA] if of_host_time else [_ours(device), *_SDPA_CPU]


def _ours(device: str) -> Contender:
    from flashattn import flash_attn_func  # after torch: see compare.py

    # On the CPU it serves every cell: whatever it raises there is an error of ours.
    refusals = (RuntimeError,) if device == "cuda" else ()
    return Contender(OURS, "flashattn", _attend_bshd(flash_attn_func), refusals=refusals)


def _attend_bshd(function: Callable[..., Any]) -> Callable[..., Tensor]:
    """Of flash_attn's signature. Some versions of the peers return (out, lse)."""

    def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        result = function(q, k, v, causal=causal)
        return result[0] if isinstance(result, tuple) else result

    return attend


def _attend_sdpa(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    # is_causal is aligned to the top left: ours only where Sq = Sk, as in every causal cell.
    grouped = q.shape[1] != k.shape[1]
    return scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)


def _stores_scores(cell: Cell) -> str | None:
    fits = cell.score_bytes <= MOST_SCORES
    return None if fits else f"scores take more than {MOST_SCORES >> 20} MiB"


def _of_sdpa(name: str, backend: SDPBackend, **more: Any) -> Contender:
    return Contender(name, "torch", _attend_sdpa, True, partial(sdpa_kernel, backend), **more)


_SDPA = Contender("sdpa", "torch", _attend_sdpa, heads_first=True)
_SDPA_CPU = (
    _of_sdpa("sdpa-flash", SDPBackend.FLASH_ATTENTION),
    _of_sdpa("sdpa-math", SDPBackend.MATH, lack=_stores_scores),
)
_SDPA_CUDA = (
    _of_sdpa("fa2", SDPBackend.FLASH_ATTENTION),
    _of_sdpa("cudnn", SDPBackend.CUDNN_ATTENTION),
)


def _flash_attention_3() -> Contender | None:
    function = _imported("fa3_fwd_interface")
    return function and Contender("fa3", "fa3-fwd", _attend_bshd(function), lack=_no_backward)


def _flash_attention_4() -> Contender | None:
    function = _imported("flash_attn.cute")
    return function and Contender("fa4", "flash-attn-4", _attend_bshd(function))


def _no_backward(cell: Cell) -> str | None:
    """The wheel of FlashAttention-3 at hand: forward only, bfloat16 only."""
    if cell.needs_gradients:
        return "has no backward"
    return None if cell.dtype == "bfloat16" else f"has no {cell.dtype}"


def _imported(module: str) -> Callable[..., Any] | None:
    try:
        return importlib.import_module(module).flash_attn_func
    except ImportError:
        return None
