#!/usr/bin/env python3
"""Times decoding from a cache on a CUDA GPU: one query for each head and sequence, beside cuDNN,
FlashAttention-2 and, where it can be imported, FlashAttention-3 (a module fa3).

The library and FlashAttention-3 are given the lengths in device memory, as an engine has them, and
also caches in shuffled pages. Each result is held against float32 before it is timed. All are timed
in one process, round by round in shuffled order, on the device itself with a cold L2 (clocks.py),
beside a plain copy.

  bench/decode.py --json decode.json
  bench/decode.py --pages 16 64 256 --queries 4"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import machine
import torch
from clocks import DeviceClock, shuffled_rounds
from gpu_flags import checked
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import flashattn


class Shape(NamedTuple):
    batch: int
    heads_q: int
    heads_k: int
    head_dim: int
    keys: int
    varied: bool = False  # log-normal lengths, to `keys`


SHAPES = (
    Shape(1, 64, 8, 128, 8192),
    Shape(1, 32, 8, 128, 32768),
    Shape(1, 32, 32, 128, 16384),
    Shape(1, 8, 1, 256, 32768),
    Shape(16, 32, 8, 128, 8192),
    Shape(64, 64, 8, 128, 4096),
    Shape(128, 32, 8, 128, 1024),
    Shape(256, 32, 8, 128, 512),
    Shape(64, 32, 8, 128, 8192, varied=True),
)
MOST_ERROR = 2e-2  # relative, of bfloat16: docs/numerics.md
COPIED_BYTES = 1 << 30


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="how often each is timed (9)")
    parser.add_argument("--queries", type=int, default=1, help="of each sequence, causal (1)")
    parser.add_argument("--pages", type=int, nargs="*", default=[64], help="their sizes (64)")
    parser.add_argument("--shapes", type=int, nargs="*", help="numbers of some of them, from 0 on")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every round")
    options = checked(parser, arguments, ["rounds", "queries"])
    if any(size < 1 for size in options.pages):
        parser.error("--pages: a page has 1 key or more")
    if any(not 0 <= n < len(SHAPES) for n in options.shapes or ()):
        parser.error(f"--shapes: allowed are numbers from 0 to {len(SHAPES) - 1}")
    return options


def lengths_of(shape: Shape) -> list[int]:
    if not shape.varied:
        return [shape.keys] * shape.batch
    generator = torch.Generator().manual_seed(1)
    sizes = torch.empty(shape.batch).log_normal_(0, 0.8, generator=generator)
    return (sizes / sizes.max() * shape.keys).ceil().int().tolist()


class Cache(NamedTuple):
    """A cache's keys and values, by sequence or in pages."""

    k: Tensor
    v: Tensor
    lengths: Tensor
    table: Tensor | None = None

    def in_pages(self, size: int) -> "Cache":
        batch, keys = self.k.shape[:2]
        count = -(-keys // size)
        order = torch.randperm(batch * count, device=self.k.device)
        table = order.view(batch, count).int()

        def scattered(rows: Tensor) -> Tensor:
            padded = rows.new_zeros(batch, count * size, *rows.shape[2:])
            padded[:, :keys] = rows
            pages = torch.empty_like(padded).view(batch * count, size, *rows.shape[2:])
            pages[order] = padded.view_as(pages)
            return pages

        return Cache(scattered(self.k), scattered(self.v), self.lengths, table)


def attend(q: Tensor, cache: Cache) -> Tensor:
    return flashattn.flash_attn_with_kvcache(
        q,
        cache.k,
        cache.v,
        cache_seqlens=cache.lengths,
        block_table=cache.table,
        causal=q.shape[1] > 1,
    )


def attend_by_sdpa(backend: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Of tensors [batch, heads, seqlen, head_dim], as [batch, seqlen, heads, head_dim]."""
    with sdpa_kernel(backend):
        out = scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])
    return out.transpose(1, 2)


def contenders(
    q: Tensor, cache: Cache, pages: Sequence[int], varied: bool
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """The library and FlashAttention-3 on rows and pages. The others take neither pages nor
    lengths, nor several rows aligned to the last key: they have whole sequences, of one row, which
    lie sequence first or (-hf) heads first."""
    caches = {"": cache} | {f"-pages-{size}": cache.in_pages(size) for size in pages}
    for name, one in caches.items():
        yield f"flashattn{name}", lambda one=one: attend(q, one)
    if not varied and q.shape[1] == 1:
        turned = [t.transpose(1, 2) for t in (q, cache.k, cache.v)]
        for suffix, tensors in ("", turned), ("-hf", [t.contiguous() for t in turned]):
            for name, backend in (
                ("cudnn", SDPBackend.CUDNN_ATTENTION),
                ("fa2", SDPBackend.FLASH_ATTENTION),
            ):
                yield (
                    name + suffix,
                    lambda backend=backend, tensors=tensors: attend_by_sdpa(backend, *tensors),
                )
    try:
        import fa3
    except ImportError:
        return
    for name, one in caches.items():
        yield (
            f"fa3{name}",
            lambda one=one: fa3.flash_attn_with_kvcache(
                q, one.k, one.v, one.lengths, one.table, causal=q.shape[1] > 1
            ),
        )


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Of sequences whose last row sees all keys."""
    group, rows, keys = q.shape[2] // k.shape[2], q.shape[1], k.shape[1]
    k, v = (t.float().repeat_interleave(group, 2) for t in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), k) * q.shape[-1] ** -0.5
    seen = torch.ones(rows, keys, dtype=torch.bool, device=q.device).tril(keys - rows)
    scores = scores.masked_fill(~seen, -torch.inf)
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)


def measure(shape: Shape, options: argparse.Namespace, clock: DeviceClock) -> dict:
    new = {"dtype": torch.bfloat16, "device": "cuda"}
    lengths = lengths_of(shape)
    q = torch.randn(shape.batch, options.queries, shape.heads_q, shape.head_dim, **new)
    k, v = (
        torch.randn(shape.batch, shape.keys, shape.heads_k, shape.head_dim, **new) for _ in range(2)
    )
    cache = Cache(k, v, torch.tensor(lengths, dtype=torch.int32, device="cuda"))
    expected = torch.cat(
        [
            exact(q[b : b + 1], k[b : b + 1, :count], v[b : b + 1, :count])
            for b, count in enumerate(lengths)
        ]
    )

    def timer(call: Callable[[], Tensor]) -> Callable[[], float]:
        captured = clock.prepare(lambda: call)
        return lambda: clock.time(captured)[0]

    timers, wrong, failed = {}, [], {}
    for name, call in contenders(q, cache, options.pages, shape.varied):
        try:
            result = call()
        except RuntimeError as error:
            failed[name] = str(error).splitlines()[0]
            continue
        out = result[0] if isinstance(result, tuple) else result
        error = (out.float() - expected).norm() / expected.norm()
        if error < MOST_ERROR:  # NaN is wrong, too
            timers[name] = timer(call)
        else:
            wrong.append(name)
    source = torch.empty(COPIED_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    timers["copy"] = timer(lambda: target.copy_(source))
    return {
        "shape": list(shape),
        "queries": options.queries,
        "key_bytes": 2 * sum(lengths) * shape.heads_k * shape.head_dim * k.element_size(),
        "wrong": wrong,
        "failed": failed,
        "rounds": shuffled_rounds(timers, options.rounds),
    }


def show(cell: dict) -> None:
    batch, heads_q, heads_k, head_dim, keys, varied = cell["shape"]
    moved = {name: cell["key_bytes"] for name in cell["rounds"][0]} | {"copy": 2 * COPIED_BYTES}
    ours = [r["flashattn"] for r in cell["rounds"]] if "flashattn" in cell["rounds"][0] else []
    print(
        f"{batch} sequences{' of log-normal lengths' if varied else ''}, {heads_q}/{heads_k} heads"
        f" of {head_dim}, {keys} keys: TB/s (its time / flashattn's)"
    )
    for name in sorted(cell["rounds"][0]):
        times = [r[name] for r in cell["rounds"]]
        rate = moved[name] / median(times) / 1e12
        ratio = f"{median(t / o for t, o in zip(times, ours)):.2f}x" if ours else ""
        beside = "" if name == "copy" else f"({ratio})"
        print(f"  {name:24} {rate:.2f} {beside} {1e6 * median(times):.1f} us")
    for name in cell["wrong"]:
        print(f"  {name:24} WRONG")
    for name, why in cell["failed"].items():
        print(f"  {name:24} {why}")
    sys.stdout.flush()


def main() -> None:
    options = parse(sys.argv[1:])
    result = {
        "machine": machine.describe("cuda"),
        "versions": machine.versions([]),
        "commit": machine.commit(),
        "cells": [],
    }
    print(f"{result['machine']['name']}; commit {result['commit']}")
    clock = DeviceClock()
    for number, shape in enumerate(SHAPES):
        if options.shapes and number not in options.shapes:
            continue
        result["cells"].append(measure(shape, options, clock))
        show(result["cells"][-1])
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n")
    wrong = itertools.chain.from_iterable(cell["wrong"] for cell in result["cells"])
    sys.exit(1 if any(name.startswith("flashattn") for name in wrong) else 0)


if __name__ == "__main__":
    main()
