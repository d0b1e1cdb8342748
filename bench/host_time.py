"""What a call costs the host: a problem so small that its own work hardly counts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from contenders import OURS

import flashattn

SHAPE = (1, 16, 2, 16)
ROUNDS = 15


def host_time(device: str) -> dict[str, float]:
    """Microseconds of a call, ours and torch's in turn: medians of the rounds."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    ours = [torch.randn(SHAPE, device=device, dtype=dtype) for _ in range(3)]
    theirs = [t.transpose(1, 2).contiguous() for t in ours]
    rounds: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for name, function, tensors in (
            (OURS, flashattn.flash_attn_func, ours),
            ("torch", torch.nn.functional.scaled_dot_product_attention, theirs),
        ):
            for what, value in _times(function, tensors).items():
                rounds.setdefault(f"{name}, {what}", []).append(value)
    return {what: statistics.median(values) for what, values in rounds.items()}


def _times(function: Callable[..., torch.Tensor], tensors: list[torch.Tensor]) -> dict[str, float]:
    leaves = [t.detach().requires_grad_() for t in tensors]
    dout = torch.ones_like(tensors[0])
    with torch.no_grad():
        plain = _microseconds(lambda: function(*tensors), 2000)
    return {
        "no_grad": plain,
        "with a gradient": _microseconds(lambda: function(*leaves), 2000),
        "and its backward": _microseconds(
            lambda: torch.autograd.grad(function(*leaves), leaves, dout), 300
        ),
    }


def _microseconds(call: Callable[[], Any], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begin) / calls * 1e6
