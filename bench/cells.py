"""What is measured: a cell is one problem and one way to work on it. Knows no PyTorch."""

import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product

# Calls on a tiny problem, all of whose time is the host's.
HOST_WORKS = ("host_no_grad", "host_forward", "host_forward_backward")
DECODE_SHAPES = ((32, 32, 128, 4096), (32, 8, 128, 8192))  # heads of q, of k, head_dim, keys
MODELS = {  # heads of q, of k, head_dim
    "Llama 2 7B": (32, 32, 128),
    "Qwen2.5 72B": (64, 8, 128),
    "Llama 3.1 405B": (128, 8, 128),
}
PACKED_HEAD_DIM = 128
PACKED_MEDIAN, PACKED_SIGMA, PACKED_RANGE = 512, 1.0, (8, 8192)  # tokens of a packed sequence


@dataclass(frozen=True)
class Cell:
    work: str  # "forward", "backward" (alone), "training" (both), "decode", one of HOST_WORKS
    dtype: str
    batch: int
    seqlen_q: int
    seqlen_k: int
    heads_q: int
    heads_k: int
    head_dim: int
    causal: bool = False
    model: str = ""
    window: int = 0  # under a causal mask: how many keys before its own a query sees; 0 is all
    softcap: float = 0
    lengths: tuple[int, ...] = ()  # of packed sequences; batch is 1 and seqlen their sum

    @property
    def pairs(self) -> float:
        """Of a query and a key that it sees, for each head; half of all where causal, as the paper
        counts."""
        if self.window:
            before = min(self.window, self.seqlen_q - 1)
            return self.batch * (before + 1) * (self.seqlen_q - before / 2)
        if self.lengths:
            every = sum(length * length for length in self.lengths)
        else:
            every = self.batch * self.seqlen_q * self.seqlen_k
        return every * (0.5 if self.causal else 1)

    @property
    def flops(self) -> float:
        work = 4.0 * self.pairs * self.head_dim * self.heads_q
        return work * {"backward": 2.5, "training": 3.5}.get(self.work, 1)

    @property
    def key_bytes(self) -> int:
        """Of K and V together."""
        element = 4 if self.dtype == "float32" else 2
        return 2 * self.batch * self.seqlen_k * self.heads_k * self.head_dim * element

    @property
    def score_bytes(self) -> int:
        """Of the matrix of scores in float32, which the plain formula stores."""
        return 4 * self.batch * self.heads_q * self.seqlen_q * self.seqlen_k

    @property
    def needs_gradients(self) -> bool:
        return self.returns_gradients or self.work == "host_forward"

    @property
    def returns_gradients(self) -> bool:
        return self.work in ("backward", "training", "host_forward_backward")

    def as_json(self) -> dict:
        return asdict(self) | {"flops": self.flops, "key_bytes": self.key_bytes}


@dataclass(frozen=True)
class Grid:
    passes: list[str]
    dtypes: list[str]
    head_dims: list[int]
    masks: list[bool]  # causal or not
    seqlens: list[int]
    tokens: int
    hidden: int

    def cells(self) -> Iterator[Cell]:
        """The paper's grid, `tokens` (or one sequence) and `hidden` in all; then decoding."""
        works = [work for work in self.passes if work != "decode"]
        kinds = product(works, self.dtypes, self.head_dims, self.masks, self.seqlens)
        for work, dtype, head_dim, causal, seqlen in kinds:
            heads = self.hidden // head_dim
            batch = max(1, self.tokens // seqlen)
            yield Cell(work, dtype, batch, seqlen, seqlen, heads, heads, head_dim, causal)
        if "decode" in self.passes:
            for dtype, (heads_q, heads_k, head_dim, keys) in product(self.dtypes, DECODE_SHAPES):
                yield Cell("decode", dtype, 1, 1, keys, heads_q, heads_k, head_dim)


def model_cells(
    passes: Iterable[str], dtypes: Iterable[str], seqlens: Iterable[int]
) -> Iterator[Cell]:
    """Famous models' attention of one sequence, causal."""
    for work, dtype, seqlen, model in product(passes, dtypes, seqlens, MODELS):
        heads_q, heads_k, head_dim = MODELS[model]
        yield Cell(work, dtype, 1, seqlen, seqlen, heads_q, heads_k, head_dim, True, model)


def packed_lengths(sequences: int) -> tuple[int, ...]:
    """Log-normal, as lengths of texts are; always the same."""
    generator = random.Random(1)
    least, most = PACKED_RANGE
    drawn = (
        generator.lognormvariate(math.log(PACKED_MEDIAN), PACKED_SIGMA) for _ in range(sequences)
    )
    return tuple(min(max(round(length), least), most) for length in drawn)


def packed_cells(grid: Grid, sequences: int) -> Iterator[Cell]:
    """Packed sequences of many lengths, of the grid's hidden size."""
    lengths, heads = packed_lengths(sequences), grid.hidden // PACKED_HEAD_DIM
    tokens = sum(lengths)
    for work, dtype, causal in product(grid.passes, grid.dtypes, grid.masks):
        shape = (1, tokens, tokens, heads, heads, PACKED_HEAD_DIM)
        yield Cell(work, dtype, *shape, causal, lengths=lengths)


def causal_cells(grid: Grid, **more: float) -> Iterator[Cell]:
    """The grid's causal cells with a window or a softcap."""
    for cell in replace(grid, masks=[True]).cells():
        yield replace(cell, **more)


def host_cells(dtypes: Iterable[str]) -> Iterator[Cell]:
    """[1, 16, 2, 16]: without gradients, with a graph for them, and that graph's way back."""
    for dtype, work in product(dtypes, HOST_WORKS):
        yield Cell(work, dtype, 1, 16, 16, 2, 2, 16)
