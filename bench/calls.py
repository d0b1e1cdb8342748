"""What is timed: for each kind of work, a function without arguments that does it once."""

import math
from collections.abc import Callable
from itertools import cycle
from typing import Any

import torch
from cells import Cell
from contenders import Attend, Contender
from machine import last_level_cache
from torch import Tensor

Call = Callable[[], Any]
# q, k, v, dout, [batch, seqlen, heads, head_dim], or [tokens, heads, head_dim] of a packed cell.
Inputs = dict[str, Tensor]

MOST_ROTATION = 4 << 30  # bytes, of each contender's copies of K and V


def new_inputs(cell: Cell, device: str) -> Inputs:
    generator = torch.Generator(device).manual_seed(1)

    def normal(seqlen: int, heads: int) -> Tensor:
        batch = () if cell.lengths else (cell.batch,)
        shape = (*batch, seqlen, heads, cell.head_dim)
        drawn = torch.randn(shape, generator=generator, device=device)
        return drawn.to(getattr(torch, cell.dtype))

    query, key = (cell.seqlen_q, cell.heads_q), (cell.seqlen_k, cell.heads_k)
    return {"q": normal(*query), "k": normal(*key), "v": normal(*key), "dout": normal(*query)}


def new_call(contender: Contender, cell: Cell, inputs: Inputs) -> Call:
    """Returns out, or (dq, dk, dv), in the contender's layout."""
    attend = contender.bind(cell)
    if cell.work == "decode":
        return _decode(contender, attend, cell, inputs)
    q, k, v = (
        contender.own(inputs[name]).requires_grad_(cell.needs_gradients) for name in ("q", "k", "v")
    )

    def forward() -> Tensor:
        return attend(q, k, v)

    if not cell.returns_gradients:
        return forward
    kept = forward()
    # The gradient comes in the strides that this contender gave its output.
    dout = torch.empty_like(kept).copy_(contender.turned(inputs["dout"]))
    if cell.work == "backward":
        return lambda: torch.autograd.grad(kept, (q, k, v), dout, retain_graph=True)
    return lambda: torch.autograd.grad(forward(), (q, k, v), dout)


def rotations(cell: Cell) -> int:
    """Copies of K and V, so that nothing of one turn is left in the cache at the next."""
    wanted = min(8 * last_level_cache(), MOST_ROTATION)
    return max(2, math.ceil(wanted / cell.key_bytes))


def _decode(contender: Contender, attend: Attend, cell: Cell, inputs: Inputs) -> Call:
    q = contender.own(inputs["q"])
    copies = [
        (contender.own(inputs["k"]), contender.own(inputs["v"])) for _ in range(rotations(cell))
    ]
    turn = cycle(copies)
    return lambda: attend(q, *next(turn))
