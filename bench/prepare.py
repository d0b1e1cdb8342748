"""This library's kernels for all cells, compiled ahead and many at a time: one by one, as the cells
come to them, they would keep a GPU waiting for minutes. The CPU's need nothing."""

import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import torch
from cells import Cell
from contenders import Contender
from torch import Tensor

NAMES = {"window_size": "window"}  # flashattn.prepare's, where they are not flash_attn's


def prepare(contenders: Iterable[Contender], cells: list[Cell], device: str) -> float:
    """Returns the seconds that it took."""
    begin = time.monotonic()
    work = [
        (contender, cell)
        for contender in contenders
        if contender.package == "flashattn"
        for cell in cells
        if contender.takes_part(cell)
    ]
    # Some wait for a kernel that another thread compiles.
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool:
        list(pool.map(lambda of: _prepare(*of, device), work))
    return time.monotonic() - begin


def _prepare(contender: Contender, cell: Cell, device: str) -> None:
    import flashattn  # after torch: see compare.py

    q = _of_shape(cell, cell.seqlen_q, cell.heads_q, device)
    k = _of_shape(cell, cell.seqlen_k, cell.heads_k, device)
    options = {NAMES.get(n, n): x for n, x in contender.bind(cell).keywords.items()}
    with suppress(*contender.refusals):  # told when the cell is measured
        flashattn.prepare(q, k, k, **options)


def _of_shape(cell: Cell, seqlen: int, heads: int, device: str) -> Tensor:
    """Without memory of that size: only shapes, alignment and dtype matter."""
    batch = () if cell.lengths else (cell.batch,)
    row = torch.empty(cell.head_dim, dtype=getattr(torch, cell.dtype), device=device)
    return row.expand(*batch, seqlen, heads, cell.head_dim)
