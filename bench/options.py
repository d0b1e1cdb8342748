#!/usr/bin/env python3
"""What each option costs on a CUDA GPU: the time of a pass with it, by the time without it.

All options of a problem are timed in one process, round by round in shuffled order, on the device
itself (clocks.py). The figure is the median over the rounds. Under a window fewer pairs are seen:
its figure is divided by their share. Results are not checked here: the tests do that.

  bench/options.py --json options.json
  bench/options.py --passes forward --head-dims 128 --dtypes float16"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from itertools import product
from pathlib import Path
from statistics import median

import machine
import torch
from calls import Call
from cells import Cell
from clocks import DeviceClock, shuffled_rounds
from gpu_flags import checked
from torch import Tensor

import flashattn

TOKENS, HIDDEN = 16384, 2048
WINDOW = 1024


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    both = ["forward", "backward"]
    add("--passes", nargs="+", choices=both, default=both)
    add("--dtypes", nargs="+", choices=["float16", "bfloat16"], default=["bfloat16"])
    add("--head-dims", nargs="+", type=int, choices=[64, 128, 256], default=[64, 128, 256])
    add("--seqlen", type=int, default=8192, help="of sequences of 16k tokens in all (8192)")
    add("--rounds", type=int, default=9, help="how often each is timed (9)")
    add("--json", type=Path, metavar="FILE", help="every round")
    return checked(parser, arguments, ["rounds", "seqlen"])


def options_of(cell: Cell, dtype: torch.dtype) -> dict[str, dict]:
    """flash_attn_func's keywords, by name; `plain` first."""
    heads, seqlen = cell.heads_q, cell.seqlen_q
    slopes = torch.linspace(0.01, 0.5, heads, device="cuda")
    row = torch.randn(1, 1, 1, seqlen, dtype=dtype, device="cuda")
    bias = torch.randn(1, heads, seqlen, seqlen, dtype=dtype, device="cuda")
    # Rows of an odd number of elements.
    unaligned = torch.nn.functional.pad(bias, (0, 1))[..., :seqlen]
    return {
        "plain": {},
        "softcap": {"softcap": 30.0},
        "alibi": {"alibi_slopes": slopes},
        "dropout": {"dropout_p": 0.1},
        "bias of a key": {"bias": row},
        "bias of all heads": {"bias": bias[:, :1]},
        "bias of each head": {"bias": bias},
        "the same, unaligned": {"bias": unaligned},
        "sinks": {"sinks": torch.zeros(heads, device="cuda")},
        f"window {WINDOW}": {"window_size": (WINDOW, 0)},
        "deterministic": {"deterministic": True} if cell.work == "backward" else {},
    }


def new_call(cell: Cell, dtype: torch.dtype, keywords: dict) -> Call:
    shape = (cell.batch, cell.seqlen_q, cell.heads_q, cell.head_dim)
    backward = cell.work == "backward"
    q, k, v = (
        torch.randn(shape, dtype=dtype, device="cuda", requires_grad=backward) for _ in range(3)
    )

    def attend() -> Tensor:
        return flashattn.flash_attn_func(q, k, v, causal=True, **keywords)

    if not backward:
        return attend
    out = attend()
    dout = torch.randn_like(out)
    return lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True)


def measure(cell: Cell, rounds: int, clock: DeviceClock) -> dict:
    dtype = getattr(torch, cell.dtype)
    timers: dict[str, Callable[[], float]] = {}
    for name, keywords in options_of(cell, dtype).items():
        if name != "plain" and not keywords:
            continue
        captured = clock.prepare(lambda more=keywords: new_call(cell, dtype, more))
        timers[name] = lambda one=captured: clock.time(one)[0]
    if dtype == torch.bfloat16:
        other = clock.prepare(lambda: new_call(cell, torch.float16, {}))
        timers["float16"] = lambda: clock.time(other)[0]
    record = shuffled_rounds(timers, rounds)
    return cell.as_json() | {"rounds": record, "costs": costs(cell, record)}


def costs(cell: Cell, rounds: list[dict[str, float]]) -> dict[str, float]:
    """Time by the plain kernel's on the same work."""
    seen = Cell(**{**cell.__dict__, "window": WINDOW}).pairs / cell.pairs
    work = {name: seen if name.startswith("window") else 1 for name in rounds[0]}
    return {name: median(r[name] / r["plain"] for r in rounds) / work[name] for name in rounds[0]}


def cells_of(options: argparse.Namespace) -> Iterable[Cell]:
    for work, dtype, head_dim in product(options.passes, options.dtypes, options.head_dims):
        heads = HIDDEN // head_dim
        batch = max(1, TOKENS // options.seqlen)
        yield Cell(work, dtype, batch, options.seqlen, options.seqlen, heads, heads, head_dim, True)


def main() -> None:
    options = parse(sys.argv[1:])
    clock = DeviceClock()
    result = {
        "machine": machine.describe("cuda"),
        "versions": machine.versions([]),
        "commit": machine.commit(),
        "cells": [],
    }
    print(f"{result['machine']['name']}; commit {result['commit']}")
    for cell in cells_of(options):
        result["cells"].append(measure(cell, options.rounds, clock))
        plain = median(r["plain"] for r in result["cells"][-1]["rounds"])
        print(f"\n{cell.work}, {cell.dtype}, head_dim {cell.head_dim}, causal, {cell.seqlen_q}")
        for name, cost in result["cells"][-1]["costs"].items():
            figure = (
                f"{cell.flops / plain / 1e12:.0f} TFLOP/s" if name == "plain" else f"{cost:.2f}x"
            )
            print(f"  {name:20}{figure}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
