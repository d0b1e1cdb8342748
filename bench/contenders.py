"""Who is measured. A contender makes, for a cell and its inputs, a call that computes it, and reads
the result back as [batch, seqlen, heads, head_dim]."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
from collections.abc import Callable, Iterator
from typing import Any

import torch
from cells import Cell, Inputs, last_level_cache
from torch.nn.attention import SDPBackend, sdpa_kernel

import flashattn

OURS = "flashattn"
MATH_SEQLEN = 2048  # beyond, its quadratic memory is no contender
Call = Callable[[], Any]


class Contender:
    """Attention by `function(q, k, v, causal)` on [batch, seqlen, heads, head_dim]."""

    def __init__(self, name: str, function: Callable[..., torch.Tensor], works: tuple[str, ...]):
        self.name = name
        self.works = works
        self._function = function

    def takes(self, cell: Cell) -> bool:
        return cell.work in self.works

    def layout(self, t: torch.Tensor) -> torch.Tensor:
        """Its own layout, so that nobody pays for a transpose; and back, being its own inverse."""
        return t

    def context(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext()

    def call(self, cell: Cell, x: Inputs) -> Call:
        q, k, v = (self.layout(t) for t in (x.q, x.k, x.v))
        if cell.work == "backward":
            leaves = [t.detach().requires_grad_() for t in (q, k, v)]
            out, dout = self._function(*leaves, cell.causal), self.layout(x.dout)
            return lambda: torch.autograd.grad(out, leaves, dout, retain_graph=True)
        if cell.work == "decode" and not q.is_cuda:
            caches = self._rotation(cell, k, v)
            return lambda: self._function(q, *next(caches), False)
        return lambda: self._function(q, k, v, cell.causal)

    def results(self, cell: Cell, returned: Any) -> dict[str, torch.Tensor]:
        names = ("dq", "dk", "dv") if cell.work == "backward" else ("out",)
        tensors = returned if cell.work == "backward" else (returned,)
        return {name: self.layout(t.detach()) for name, t in zip(names, tensors)}

    def _rotation(self, cell: Cell, k: torch.Tensor, v: torch.Tensor) -> Iterator[Any]:
        """Ever other keys, 8 times the last cache in all: decoding reads them from memory."""
        copies = 1 + 8 * last_level_cache() // cell.cache_bytes()
        caches = [(k.clone(), v.clone()) for _ in range(copies)]
        while True:
            yield from caches


class Sdpa(Contender):
    """torch's scaled_dot_product_attention, held to one of its backends."""

    def __init__(self, name: str, backend: SDPBackend):
        super().__init__(name, self._sdpa, ("forward", "backward", "decode"))
        self._backend = backend

    def takes(self, cell: Cell) -> bool:
        quadratic = self._backend == SDPBackend.MATH and cell.work != "decode"
        return super().takes(cell) and not (quadratic and cell.seqlen > MATH_SEQLEN)

    def layout(self, t: torch.Tensor) -> torch.Tensor:
        return t.transpose(1, 2).contiguous()

    def context(self) -> contextlib.AbstractContextManager[Any]:
        return sdpa_kernel(self._backend)

    @staticmethod
    def _sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
        grouped = q.shape[1] != k.shape[1]
        return torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=causal, enable_gqa=grouped
        )


def _ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    return flashattn.flash_attn_func(q, k, v, causal=causal)


def _foreign(name: str, module: str, works: tuple[str, ...]) -> list[Contender]:
    """A peer of its own package, where that can be imported."""
    try:
        function = importlib.import_module(module).flash_attn_func
    except ImportError:
        return []

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
        out = function(q, k, v, causal=causal)
        return out[0] if isinstance(out, tuple) else out

    return [Contender(name, run, works)]


def contenders(device: str) -> list[Contender]:
    """All there are on this device; ours first."""
    every = ("forward", "backward", "decode")
    ours = Contender(OURS, _ours, every)
    if device == "cpu":
        return [
            ours,
            Sdpa("torch flash", SDPBackend.FLASH_ATTENTION),
            Sdpa("torch math", SDPBackend.MATH),
        ]
    peers = [
        Sdpa("FlashAttention-2", SDPBackend.FLASH_ATTENTION),
        Sdpa("cuDNN", SDPBackend.CUDNN_ATTENTION),
        *_foreign("FlashAttention-3", "fa3_fwd_interface", ("forward", "decode")),
        *_foreign("FlashAttention-4", "flash_attn.cute", ("forward", "backward")),
    ]
    tiny = torch.zeros((1, 8, 1, 64), dtype=torch.bfloat16, device=device)
    try:
        _ours(tiny, tiny, tiny, True)
    except (RuntimeError, ValueError) as refusal:
        print(f"{OURS} is left out: {refusal}")
        return peers
    return [ours, *peers]


def versions() -> dict[str, str]:
    """Of the packages that are measured."""
    found = {}
    for package in ("flashattn", "torch", "flash-attn-3", "flash-attn-4", "nvidia-cudnn-cu13"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
