"""Types of the arguments and results of flash_attn's functions, for type checkers."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor

Window = tuple[int | None, int | None] | None
OutAndLse = tuple[Tensor, Tensor]
OutLseAndMask = tuple[Tensor, Tensor, Tensor]
Results = Tensor | OutAndLse | OutLseAndMask


class MoreOfCache(TypedDict, total=False):
    """Keywords of all functions, beyond flash_attn's."""

    sinks: Tensor | None
    batch_invariant: bool
    family: str
    out: Tensor | None


class MoreOfPacked(MoreOfCache, total=False):
    seqused_q: Tensor | None
    seqused_k: Tensor | None


class More(MoreOfPacked, total=False):
    bias: Tensor | None
