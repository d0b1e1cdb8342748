"""What is measured: one problem, its inputs, its work, and its exact result."""

from __future__ import annotations

import dataclasses
import pathlib

import torch

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Relative Frobenius error of standard-normal inputs, docs/numerics.md.
LIMITS = {"float32": 1e-5, "float16": 3e-3, "bfloat16": 2e-2}
MODELS = {
    "Llama 2 7B": (32, 32, 128),
    "Qwen2.5 72B": (64, 8, 128),
    "Llama 3.1 405B": (128, 8, 128),
}
DECODE = ((32, 32, 128, 4096), (32, 8, 128, 8192))  # heads, key heads, head_dim, cached keys
ROWS = 512  # of the exact result's blocks


@dataclasses.dataclass(frozen=True)
class Cell:
    """A pass ("forward", "backward", "decode") of one problem."""

    work: str
    dtype: str
    batch: int
    heads: int
    heads_k: int
    head_dim: int
    seqlen: int  # of keys; and of queries, but in decoding
    causal: bool
    name: str = ""

    @property
    def rows(self) -> int:
        return 1 if self.work == "decode" else self.seqlen

    def flops(self) -> float:
        """As the paper counts."""
        full = 4 * self.rows * self.seqlen * self.head_dim * self.heads * self.batch
        return full * (0.5 if self.causal else 1) * (2.5 if self.work == "backward" else 1)

    def cache_bytes(self) -> int:
        """Of K and V, which decoding reads once."""
        element = 4 if self.dtype == "float32" else 2
        return 2 * self.batch * self.seqlen * self.heads_k * self.head_dim * element

    def rate(self, seconds: float) -> tuple[float, str]:
        if self.work == "decode":
            return self.cache_bytes() / seconds / 1e9, "GB/s"
        return self.flops() / seconds / 1e9, "GFLOP/s"

    def text(self) -> str:
        heads = str(self.heads) if self.heads == self.heads_k else f"{self.heads}/{self.heads_k}"
        parts = [self.work, self.dtype, f"b={self.batch}", f"h={heads}", f"d={self.head_dim}"]
        parts += [f"{self.seqlen}", "causal" if self.causal else "full", self.name]
        return " ".join(filter(None, parts))


@dataclasses.dataclass
class Inputs:
    """Normal numbers, [batch, seqlen, heads, head_dim]; dout as the output."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    dout: torch.Tensor


def make_inputs(cell: Cell, device: str) -> Inputs:
    generator = torch.Generator(device).manual_seed(0)

    def normal(rows: int, heads: int) -> torch.Tensor:
        shape = (cell.batch, rows, heads, cell.head_dim)
        return torch.randn(shape, generator=generator, device=device).to(DTYPES[cell.dtype])

    q, dout = normal(cell.rows, cell.heads), normal(cell.rows, cell.heads)
    return Inputs(q, normal(cell.seqlen, cell.heads_k), normal(cell.seqlen, cell.heads_k), dout)


def exact_head(cell: Cell, x: Inputs) -> dict[str, torch.Tensor]:
    """The first head of the first sequence in float64, block of rows by block: out, dq and, where
    the head has its keys alone, dk and dv."""
    q, k, v, dout = (t[0, :, 0].double() for t in (x.q, x.k, x.v, x.dout))
    scale = cell.head_dim**-0.5
    out, dq = torch.empty_like(q), torch.empty_like(q)
    dk, dv = torch.zeros_like(k), torch.zeros_like(v)
    for begin in range(0, len(q), ROWS):
        rows = slice(begin, begin + ROWS)
        s = scale * q[rows] @ k.T
        if cell.causal:
            last = torch.arange(len(q), device=q.device)[rows, None] + len(k) - len(q)
            s = s.masked_fill(torch.arange(len(k), device=q.device) > last, -torch.inf)
        p = s.softmax(-1)
        out[rows] = p @ v
        delta = (dout[rows] * out[rows]).sum(-1, keepdim=True)
        ds = p * (dout[rows] @ v.T - delta)
        dq[rows] = scale * ds @ k
        dk += scale * ds.T @ q[rows]
        dv += p.T @ dout[rows]
    alone = {"dk": dk, "dv": dv} if cell.heads == cell.heads_k else {}
    return {"out": out, "dq": dq, **alone}


def error(got: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    """The largest relative Frobenius error of what was computed; infinite for NaN."""
    worst = 0.0
    for name, result in got.items():
        if name in exact:
            difference = (result[0, :, 0].double() - exact[name]).norm() / exact[name].norm()
            worst = max(worst, float(difference.nan_to_num(torch.inf)))
    return worst


def last_level_cache() -> int:
    """Bytes of the CPU's largest cache; 32 MiB where the system does not tell."""
    sizes = [32 << 20]
    for file in pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        sizes.append(int(file.read_text().strip().rstrip("K")) << 10)
    return max(sizes)
