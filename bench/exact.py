"""Attention in float64 for one key head of one sequence and the query heads that read it: what each
contender's result is held against before it is timed."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from calls import Inputs
from cells import Cell
from contenders import Contender
from torch import Tensor

# Relative Frobenius error for standard-normal inputs: docs/numerics.md.
MOST_ERROR = {"float32": 1e-5, "float16": 3e-3, "bfloat16": 2e-2}
ROWS = 256  # at a time, so that memory stays linear in the sequence


@dataclass(frozen=True)
class Sample:
    sequence: int
    key_head: int
    group: int  # query heads for each key head
    packed: slice | None = None  # the sequence's rows of packed tensors

    def of(self, name: str, t: Tensor) -> Tensor:
        """The part of q, k, v, out or a gradient of them, [batch, seqlen, heads, head_dim] or
        packed, that belongs to the sample: [seqlen, heads, head_dim] in float64."""
        first, count = self.key_head, 1
        if name.removeprefix("d") in ("q", "out"):
            first, count = self.key_head * self.group, self.group
        rows = t[self.sequence] if self.packed is None else t[self.packed]
        return rows[:, first : first + count].double()


def exact(cell: Cell, inputs: Inputs, sample: Sample) -> dict[str, Tensor]:
    """{"out"}, or {"dq", "dk", "dv"} where the cell's work returns gradients."""
    q, k, v, dout = (sample.of(name, inputs[name]) for name in ("q", "k", "v", "dout"))
    k, v = k[:, 0], v[:, 0]
    scale = 1 / math.sqrt(cell.head_dim)
    out, dq, dk, dv = (torch.zeros_like(t) for t in (q, q, k, v))
    for begin in range(0, len(q), ROWS):
        rows = slice(begin, min(begin + ROWS, len(q)))
        seen = _seen(cell, rows, len(k))
        scores = scale * torch.einsum("ihd,jd->hij", q[rows], k[seen])
        slope = torch.ones_like(scores)
        if cell.softcap:
            scores = cell.softcap * torch.tanh(scores / cell.softcap)
            slope = 1 - (scores / cell.softcap) ** 2
        scores.masked_fill_(_hidden(cell, rows, seen, q.device), -torch.inf)
        p = torch.softmax(scores, dim=-1)
        out[rows] = torch.einsum("hij,jd->ihd", p, v[seen])
        if cell.returns_gradients:
            delta = (dout[rows] * out[rows]).sum(-1).T[..., None]
            dp = torch.einsum("ihd,jd->hij", dout[rows], v[seen])
            ds = scale * slope * p * (dp - delta)
            dq[rows] = torch.einsum("hij,jd->ihd", ds, k[seen])
            dk[seen] += torch.einsum("hij,ihd->jd", ds, q[rows])
            dv[seen] += torch.einsum("hij,ihd->jd", p, dout[rows])
    if cell.returns_gradients:
        return {"dq": dq, "dk": dk[:, None], "dv": dv[:, None]}
    return {"out": out}


def _seen(cell: Cell, rows: slice, keys: int) -> slice:
    """The keys that some of these rows see; square where causal."""
    first = max(0, rows.start - cell.window) if cell.window else 0
    return slice(first, rows.stop if cell.causal else keys)


def _hidden(cell: Cell, rows: slice, seen: slice, device: torch.device) -> Tensor:
    """bool [rows, keys seen]"""
    i, j = (torch.arange(r.start, r.stop, device=device) for r in (rows, seen))
    before = i[:, None] - j
    never = torch.zeros_like(before, dtype=torch.bool)
    hidden = before < 0 if cell.causal else never
    return hidden | (before > cell.window) if cell.window else hidden


def errors(
    contender: Contender, result: Any, expected: dict[str, Tensor], sample: Sample
) -> dict[str, float | None]:
    """Relative errors in the sample; None where any number of the whole result is not finite."""
    tensors = result if isinstance(result, tuple) else (result,)
    found = {}
    for (name, exact_part), whole in zip(expected.items(), tensors):
        part = sample.of(name, contender.turned(whole.detach()))
        error = ((part - exact_part).norm() / exact_part.norm()).item()
        found[name] = error if whole.isfinite().all() else None
    return found


def is_right(cell: Cell, found: dict[str, float | None]) -> bool:
    return all(error is not None and error <= MOST_ERROR[cell.dtype] for error in found.values())
