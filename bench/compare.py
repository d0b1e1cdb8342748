#!/usr/bin/env python3
"""Times this library beside its peers, in one process, round by round in shuffled order.

The figure of a cell is the median of the rounds' ratios; every contender's result is first held
against float64. CPU: PyTorch's flash and math attention. CUDA: FlashAttention-2 and cuDNN through
PyTorch, FlashAttention-3 and -4 where they can be imported; device time of CUDA graphs.

Examples:
  bench/compare.py --device cpu --json cpu.json --plot cpu.png
  bench/compare.py --work backward --dtype bfloat16 --head-dim 128 --seqlen 1024 4096 --causal
  bench/compare.py --from cpu.json --plot cpu.png
  bench/compare.py --host-time
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
from typing import Any

import torch
from cells import DECODE, DTYPES, MODELS, Cell
from charts import draw
from contenders import OURS, contenders, versions
from host_time import host_time
from timing import GEMM, Measurement, gemm_timer

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Tokens and hidden size: the paper's on a GPU, what two cores do in a quarter of an hour on a CPU.
DEFAULTS = {
    "cpu": dict(head_dim=[64, 128], seqlen=[512, 1024, 2048, 4096, 8192], tokens=8192, hidden=256),
    "cuda": dict(
        head_dim=[64, 128, 256],
        seqlen=[512, 1024, 2048, 4096, 8192, 16384],
        tokens=16384,
        hidden=2048,
    ),
}


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    positive = _positive
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--work", nargs="+", choices=("forward", "backward", "decode"))
    parser.add_argument("--dtype", nargs="+", choices=tuple(DTYPES))
    parser.add_argument("--head-dim", nargs="+", type=positive)
    parser.add_argument("--seqlen", nargs="+", type=positive)
    parser.add_argument("--tokens", type=positive, help="batch * length of the grid")
    parser.add_argument("--hidden", type=positive, help="heads * head_dim of the grid")
    masks = parser.add_mutually_exclusive_group()
    masks.add_argument("--causal", action="store_true", help="causal cells only")
    masks.add_argument("--full", action="store_true", help="cells without a mask only")
    parser.add_argument("--models", action="store_true", help="famous models in place of the grid")
    parser.add_argument("--model-seqlen", type=positive, default=8192)
    parser.add_argument("--rounds", type=positive, default=15)
    parser.add_argument(
        "--seconds-per-cell",
        type=float,
        default=6.0,
        help="fewer rounds, 3 at least, when they are over; a contender that needs longer for one"
        " call is timed once",
    )
    parser.add_argument(
        "--bound", type=float, default=1.0, help="a cell below this ratio is measured once more"
    )
    parser.add_argument("--json", metavar="FILE", help="write every round to FILE")
    parser.add_argument("--plot", metavar="FILE", help="draw bar charts into FILE")
    parser.add_argument("--from", dest="source", metavar="FILE", help="draw FILE, measure nothing")
    parser.add_argument("--host-time", action="store_true", help="time of a call of a tiny problem")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no CUDA device")
    if arguments.source and not arguments.plot:
        parser.error("--from: needs --plot FILE")
    for file in filter(None, (arguments.json, arguments.plot)):
        if not os.access(pathlib.Path(file).resolve().parent, os.W_OK):
            parser.error(f"{file}: cannot be written")
    for name, value in DEFAULTS[arguments.device].items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    for head_dim, seqlen in itertools.product(arguments.head_dim, arguments.seqlen):
        if arguments.hidden % head_dim or arguments.tokens % seqlen:
            parser.error(
                f"--head-dim {head_dim} and --seqlen {seqlen} must divide --hidden"
                f" {arguments.hidden} and --tokens {arguments.tokens}"
            )
    return arguments


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def cells_of(arguments: argparse.Namespace) -> list[Cell]:
    cuda = arguments.device == "cuda"
    works = arguments.work or (["forward", "backward"] + ([] if cuda else ["decode"]))
    dtypes = arguments.dtype or (["bfloat16"] if cuda else ["float32", "bfloat16"])
    masks = [True] if arguments.causal else [False] if arguments.full else [False, True]
    cells = []
    for work, dtype in itertools.product(works, dtypes):
        if work == "decode":
            cells += [Cell(work, dtype, 1, *problem, False) for problem in DECODE]
        elif arguments.models:
            cells += [
                Cell(work, dtype, 1, *heads, arguments.model_seqlen, True, name)
                for name, heads in MODELS.items()
            ]
        else:
            cells += [
                Cell(work, dtype, arguments.tokens // s, h, h, d, s, causal)
                for d, causal, s in itertools.product(arguments.head_dim, masks, arguments.seqlen)
                for h in [arguments.hidden // d]
            ]
    return cells


def measure(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], bool]:
    """All cells, a line of the table each; and whether a result of ours was wrong."""
    everybody = contenders(arguments.device)
    extra = {GEMM: gemm_timer()} if arguments.device == "cuda" else {}
    records, wrong = [], False
    for cell in cells_of(arguments):
        measurement = Measurement(cell, arguments.device, everybody)
        measurement.run(arguments.rounds, arguments.seconds_per_cell, extra)
        if min(measurement.ratios().values(), default=arguments.bound) < arguments.bound:
            measurement.run(arguments.rounds, arguments.seconds_per_cell, extra)
        print(line(measurement), flush=True)
        records.append(measurement.record())
        wrong = wrong or "wrong" in measurement.failures.get(OURS, "")
    return records, wrong


def line(measurement: Measurement) -> str:
    """`forward float32 ...  flashattn 150.1 GFLOP/s  torch flash 100.2 (1.50x)`"""
    parts = [f"{measurement.cell.text():48}"]
    ratios = measurement.ratios()
    for name in measurement.seconds:
        rate, unit = measurement.cell.rate(measurement.median(name))
        if name == GEMM:
            rate, unit = 2 * 8192**3 / measurement.median(name) / 1e9, "GFLOP/s"
        beside = f" ({ratios[name]:.2f}x)" if name in ratios else f" {unit}"
        parts.append(f"{name} {rate:.1f}{beside}")
    parts += [f"{name}: {why}" for name, why in measurement.failures.items()]
    return "  ".join(parts)


def summary(records: list[dict[str, Any]]) -> str:
    """Least and geometric mean of the ratios, by pass, dtype and peer."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for record in records:
        for peer, ratio in record["ratios"].items():
            groups.setdefault((record["work"], record["dtype"], peer), []).append(ratio)
    lines = ["", f"{'':40} {'least':>8} {'mean':>8}  cells"]
    for key, ratios in groups.items():
        mean = statistics.geometric_mean(ratios)
        lines.append(f"{' '.join(key):40} {min(ratios):7.2f}x {mean:7.2f}x  {len(ratios)}")
    return "\n".join(lines)


def machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    for text in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return f"{text.partition(':')[2].strip()}, {torch.get_num_threads()} threads"
    return f"{platform.processor()}, {torch.get_num_threads()} threads"


def commit() -> str:
    run = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return run.stdout.strip() or "unknown"


def main() -> int:
    arguments = read_arguments()
    if arguments.source:
        draw(json.loads(pathlib.Path(arguments.source).read_text()), arguments.plot)
        return 0
    report: dict[str, Any] = {
        "device": machine(arguments.device),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **versions()},
        "commit": commit(),
        "cells": [],
    }
    if arguments.device == "cuda":
        report["versions"].update(cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version())
    wrong = False
    if arguments.host_time:
        report["host_microseconds"] = host_time(arguments.device)
        for what, value in report["host_microseconds"].items():
            print(f"{what:40} {value:7.1f} us")
    else:
        print(f"{report['device']}; {report['versions']}")
        report["cells"], wrong = measure(arguments)
        print(summary(report["cells"]))
    if arguments.json:
        pathlib.Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n")
    if arguments.plot:
        draw(report, arguments.plot)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
