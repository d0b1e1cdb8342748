#!/usr/bin/env python3
"""Times decoding on a CUDA GPU: one query for each head and sequence, beside cuDNN and, where it
can be imported, FlashAttention-3 (a module fa3).

Each result is held against float32 before it is timed. All are timed in one process, round by
round in shuffled order, on the device itself with a cold L2 (clocks.py), beside a plain copy.

  bench/decode.py --json decode.json"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import machine
import torch
from clocks import DeviceClock, shuffled_rounds
from gpu_flags import checked
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

import flashattn

HEAD_DIM = 128
# Sequences, heads of q, heads of k, keys.
SHAPES = (
    (1, 32, 32, 8192),
    (1, 64, 8, 8192),
    (8, 64, 8, 8192),
    (64, 64, 8, 8192),
    (1, 32, 8, 32768),
    (16, 32, 8, 4096),
    (4, 128, 8, 16384),
)
MOST_ERROR = 2e-2  # relative, of bfloat16: docs/numerics.md
COPIED_BYTES = 1 << 30


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="how often each is timed (9)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every round")
    return checked(parser, arguments, ["rounds"])


def attend_by_cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Of tensors [batch, heads, seqlen, head_dim], as [batch, seqlen, heads, head_dim]."""
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        out = scaled_dot_product_attention(q, k, v, enable_gqa=q.shape[1] != k.shape[1])
    return out.transpose(1, 2)


def contenders(q: Tensor, k: Tensor, v: Tensor) -> dict[str, Callable[[], Tensor]]:
    """cuDNN on K and V that lie sequence first, and on copies that lie heads first."""
    turned = [t.transpose(1, 2) for t in (q, k, v)]
    copies = [t.contiguous() for t in turned]
    found = {
        "flashattn": lambda: flashattn.flash_attn_func(q, k, v),
        "cudnn": lambda: attend_by_cudnn(*turned),
        "cudnn-hf": lambda: attend_by_cudnn(*copies),
    }
    try:
        import fa3
    except ImportError:
        return found
    return found | {"fa3": lambda: fa3.flash_attn_func(q, k, v)}


def exact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    group = q.shape[2] // k.shape[2]
    k, v = (t.float().repeat_interleave(group, 2) for t in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.float(), k) * q.shape[-1] ** -0.5
    return torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v)


def measure(shape: tuple[int, int, int, int], rounds: int, clock: DeviceClock) -> dict:
    batch, heads_q, heads_k, keys = shape
    new = {"dtype": torch.bfloat16, "device": "cuda"}
    q = torch.randn(batch, 1, heads_q, HEAD_DIM, **new)
    k, v = (torch.randn(batch, keys, heads_k, HEAD_DIM, **new) for _ in range(2))
    expected = exact(q, k, v)

    def timer(call: Callable[[], Tensor]) -> Callable[[], float]:
        captured = clock.prepare(lambda: call)
        return lambda: clock.time(captured)[0]

    timers, wrong = {}, []
    for name, call in contenders(q, k, v).items():
        result = call()
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
        "shape": [batch, heads_q, heads_k, HEAD_DIM, keys],
        "key_bytes": 2 * k.numel() * k.element_size(),
        "wrong": wrong,
        "rounds": shuffled_rounds(timers, rounds),
    }


def show(cell: dict) -> None:
    batch, heads_q, heads_k, _, keys = cell["shape"]
    moved = {name: cell["key_bytes"] for name in cell["rounds"][0]} | {"copy": 2 * COPIED_BYTES}
    rates = [
        f"{name} {moved[name] / median(r[name] for r in cell['rounds']) / 1e12:.2f}"
        for name in sorted(cell["rounds"][0])
    ]
    wrong = "".join(f", {name} WRONG" for name in cell["wrong"])
    print(
        f"{batch:3} x {heads_q}/{heads_k} heads, {keys:6} keys: {', '.join(rates)}{wrong}",
        flush=True,
    )


def main() -> None:
    options = parse(sys.argv[1:])
    result = {
        "machine": machine.describe("cuda"),
        "versions": machine.versions([]),
        "commit": machine.commit(),
        "cells": [],
    }
    print(
        f"{result['machine']['name']}; commit {result['commit']}; "
        f"TB/s of K and V, head_dim {HEAD_DIM}"
    )
    clock = DeviceClock()
    for shape in SHAPES:
        result["cells"].append(measure(shape, options.rounds, clock))
        show(result["cells"][-1])
        if options.json:
            options.json.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(1 if any("flashattn" in cell["wrong"] for cell in result["cells"]) else 0)


if __name__ == "__main__":
    main()
