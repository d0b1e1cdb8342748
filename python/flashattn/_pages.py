"""block_table: the pages of a cache in which the keys of each sequence lie."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._torch import need_tensors, shape_of


def need_pages(block_table: Any) -> None:
    """The errors that must come before anybody reads the table."""
    need_tensors(block_table=block_table)
    if block_table.dim() != 2 or block_table.dtype != torch.int32:
        raise _expected("block_table", block_table, "int32 [batch, pages of a sequence]")


def used_of_pages(cu_seqlens_k: Tensor | None, seqused_k: Tensor | None) -> Tensor | None:
    """How many keys each sequence has: seqused_k, or what cu_seqlens_k says; one is needed."""
    if seqused_k is not None:
        return seqused_k
    if cu_seqlens_k is None:
        raise ValueError("seqused_k: is missing; with block_table it or cu_seqlens_k is needed")
    need_tensors(cu_seqlens_k=cu_seqlens_k)
    if cu_seqlens_k.dim() != 1 or cu_seqlens_k.dtype != torch.int32:
        raise _expected("cu_seqlens_k", cu_seqlens_k, "int32 [batch + 1]")
    return cu_seqlens_k[1:] - cu_seqlens_k[:-1]


def _expected(name: str, t: Tensor, kind: str) -> ValueError:
    return ValueError(f"{name}: is {t.dtype} {list(shape_of(t))}; expected {kind}")


def named(error: Exception, **names: str) -> Exception:
    """The library's error with the caller's names: page_table is called block_table."""
    name, colon, rest = str(error).partition(": ")
    return type(error)({**names, "page_table": "block_table"}.get(name, name) + colon + rest)
