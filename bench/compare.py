#!/usr/bin/env python3
"""Times this library beside its peers, in one process, round by round in shuffled order.

On the CPU the peers are PyTorch's scaled_dot_product_attention with its flash and with its plain
kernel; on a CUDA GPU FlashAttention-2 and cuDNN through PyTorch. Where they can be imported,
onnxruntime, ggml and zentorch join on the CPU, FlashAttention-3 (a module fa3) and -4 on a GPU. A
GPU's peers are measured on tensors that lie sequence first and on such that lie heads first; the
faster counts. Each result is first held against float64: a wrong contender is named and not timed.
The ratio of a cell is the median over its rounds of the peer's time by ours: above 1, this library
is faster."""

import argparse
import importlib.util
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

from cells import Cell, Grid, causal_cells, host_cells, model_cells, packed_cells
from outputs import why_not
from report import OURS, Table, print_summary

EXAMPLES = """\
examples:
  bench/compare.py --json cpu.json --plot cpu.png      the whole grid, some 10 minutes on two cores
  bench/compare.py --passes forward --dtypes float32 --head-dims 64 --seqlens 1k 4k --causal
  bench/compare.py --passes decode
  bench/compare.py --host-time                         the time of a call, without its work
  bench/compare.py --device cuda --passes forward --peers fa2 --grid --models --varlen --window
                   --softcap --json cuda.json          all kinds of cells, beside one peer
  bench/compare.py --device cuda --head-dims 96 --hidden 1536
  bench/compare.py --device cuda --passes forward --peers fa3 --builds old=../old/build/libfa.so
                                                       what a change gave
  bench/compare.py --from cpu.json --plot cpu.png      table and plot of an earlier run

FLOPs as the paper counts: 4 Sq Sk D H B, half of it when causal, backward 2.5 times forward,
training 3.5 times; of packed sequences the sum, with a window 4 D H for each pair that is visible.
Exit status: 1 where a result of this library is wrong, 2 for wrong usage."""

DEFAULTS = {
    "cpu": {
        "passes": ["forward", "backward", "decode"],
        "dtypes": ["float32", "bfloat16"],
        "head_dims": [64, 128],
        "seqlens": [512, 1024, 2048, 4096, 8192],
        "tokens": 4096,
        "hidden": 256,
    },
    "cuda": {
        "passes": ["forward", "backward"],
        "dtypes": ["bfloat16"],
        "head_dims": [64, 128, 256],
        "seqlens": [512, 1024, 2048, 4096, 8192, 16384],
        "tokens": 16384,
        "hidden": 2048,
    },
}
SEQLENS = {"models": 8192, "window": 16384, "softcap": 8192}
SETS = ("grid", "models", "varlen", "window", "softcap")  # of cells; the grid if none is asked for
CPU_PEERS = ("sdpa", "sdpa-flash", "sdpa-math", "ort-gqa", "ort-mha", "ggml", "zentorch")
PEERS = (*CPU_PEERS, "fa2", "cudnn", "efficient", "math", "math-16", "fa3", "fa3-ordered", "fa4")
HOST_REPEATS = 100  # calls on the tiny problem in one round: some milliseconds


def count(text: str) -> int:
    """512 or 8k."""
    number = int(text[:-1]) * 1024 if text.endswith("k") else int(text)
    if number < 1:
        raise ValueError
    return number


def positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def named_path(text: str) -> tuple[str, str]:
    """A name for the tables and the file of a library."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise ValueError
    return name, path


def new_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=DEFAULTS, default="cpu")

    cells = parser.add_argument_group("what is measured", "the grid, or instead of it all of these")
    cells.add_argument("--grid", action="store_true", help="the grid, too")
    cells.add_argument("--models", action="store_true", help="famous models' attention at 8k")
    cells.add_argument(
        "--varlen",
        nargs="?",
        type=count,
        const=64,
        metavar="N",
        help="packed sequences of log-normal lengths, 8 to 8k: %(const)s",
    )
    cells.add_argument(
        "--window",
        nargs="?",
        type=count,
        const=1024,
        metavar="W",
        help="the grid's causal cells at 16k, of the last keys only: %(const)s",
    )
    cells.add_argument(
        "--softcap",
        nargs="?",
        type=positive,
        const=2,  # so low that a result without it would be found wrong
        metavar="CAP",
        help="the grid's causal cells at 8k with a softcap, and ours without: %(const)s",
    )
    what = cells.add_mutually_exclusive_group()
    what.add_argument(
        "--host-time", action="store_true", help="time per call on [1, 16, 2, 16], nothing else"
    )
    what.add_argument(
        "--from",
        type=Path,
        dest="source",
        metavar="FILE.json",
        help="nothing: an earlier run's JSON",
    )

    who = parser.add_argument_group("who is measured")
    who.add_argument("--peers", nargs="+", choices=PEERS, help="all that can be had")
    who.add_argument(
        "--family",
        choices=["auto", "sm80", "sm90"],
        default="auto",
        help="our kernels on CUDA: %(default)s",
    )

    who.add_argument(
        "--builds",
        nargs="+",
        type=named_path,
        default=[],
        metavar="NAME=LIBFA",
        help="other builds of this library: old=/tmp/old/build/libfa.so",
    )
    who.add_argument(
        "--deterministic",
        action="store_true",
        help="deterministic backward passes, too: ours, FlashAttention-3's (CUDA)",
    )

    grid = parser.add_argument_group("the grid", "defaults on the CPU; on CUDA the paper's grid")
    grid.add_argument(
        "--passes",
        nargs="+",
        choices=["forward", "backward", "training", "decode"],
        help="all but training; backward: it alone; training: forward and backward; decode: one"
        " query against 4k and 8k keys (CPU only)",
    )
    grid.add_argument(
        "--dtypes", nargs="+", choices=["float32", "float16", "bfloat16"], help="float32 bfloat16"
    )
    grid.add_argument("--head-dims", nargs="+", type=count, metavar="D", help="64 128")
    grid.add_argument("--seqlens", nargs="+", type=count, metavar="S", help="512 1k 2k 4k 8k")
    masks = grid.add_mutually_exclusive_group()
    masks.add_argument("--causal", action="store_const", dest="masks", const=[True])
    masks.add_argument("--full", action="store_const", dest="masks", const=[False])
    masks.add_argument(
        "--both", action="store_const", dest="masks", const=[False, True], help="the default"
    )
    parser.set_defaults(masks=[False, True])
    grid.add_argument("--tokens", type=count, help="of all sequences together, at least one: 4k")
    grid.add_argument("--hidden", type=count, help="head_dim times heads: 256")

    effort = parser.add_argument_group("how long")
    effort.add_argument("--rounds", type=count, default=15, help="of each cell: %(default)s")
    effort.add_argument(
        "--seconds-per-cell",
        type=positive,
        default=6,
        metavar="T",
        help="about; slow cells get fewer rounds, at least one: %(default)s",
    )
    effort.add_argument(
        "--bound",
        type=positive,
        default=1,
        metavar="RATIO",
        help="a cell with a ratio under it is measured once more: %(default)s",
    )

    output = parser.add_argument_group("output beside the table")
    output.add_argument("--json", type=Path, metavar="FILE", help="every round of every cell")
    output.add_argument("--plot", type=Path, metavar="FILE.png", help="bar charts (matplotlib)")
    return parser


def check_usage(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Before minutes of measuring; fills in the device's defaults."""
    for target in (options.json, options.plot):
        if target is not None and (problem := why_not(target)):
            parser.error(problem)
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot: needs matplotlib")
    if options.source:
        if options.json:
            parser.error("--json: --from measures nothing")
        return
    if options.deterministic and options.device != "cuda":
        parser.error("--deterministic: on CUDA only; the CPU's is always so")
    for module in ("torch", "flashattn"):
        if importlib.util.find_spec(module) is None:
            parser.error(f"{module} is not installed")
    sets = [name for name in SETS if getattr(options, name)]
    if options.host_time and sets:
        parser.error(f"--host-time: not allowed with argument --{sets[0]}")
    options.sets = sets or ["grid"]
    if options.sets != ["grid"] and not options.passes:
        options.passes = ["forward", "backward"]
    for name, default in DEFAULTS[options.device].items():
        if getattr(options, name) is None and name != "seqlens":  # each set has its own
            setattr(options, name, default)
    check_grid(parser, options)


def check_grid(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error("--device cuda: this PyTorch finds no CUDA device")
        if "float32" in options.dtypes:
            parser.error("--dtypes float32: on the CPU only")
    if "decode" in options.passes and (options.device == "cuda" or options.sets != ["grid"]):
        parser.error("--passes decode: on the CPU's grid only")
    for head_dim in options.head_dims:
        if options.hidden % head_dim != 0:
            parser.error(f"--hidden {options.hidden}: is no multiple of --head-dims {head_dim}")


def cells_of(options: argparse.Namespace) -> list[Cell]:
    if options.host_time:
        return list(host_cells(options.dtypes))
    return [cell for name in options.sets for cell in cells_of_set(name, options)]


def cells_of_set(name: str, options: argparse.Namespace) -> Iterable[Cell]:
    fields = {field: getattr(options, field) for field in Grid.__dataclass_fields__}
    if options.seqlens is None:
        own = SEQLENS.get(name)
        fields["seqlens"] = [own] if own else DEFAULTS[options.device]["seqlens"]
    grid = Grid(**fields)
    if name == "models":
        return model_cells(grid.passes, grid.dtypes, grid.seqlens)
    if name == "varlen":
        return packed_cells(grid, options.varlen)
    if name == "window":
        return causal_cells(grid, window=options.window)
    if name == "softcap":
        return causal_cells(grid, softcap=options.softcap)
    return grid.cells()


def measure(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict:
    """Prints and writes each cell as soon as it is measured."""
    # Here, since --from needs no PyTorch. torch must come before flashattn, so that both work with
    # one OpenMP, and thus with torch.get_num_threads() threads.
    import machine
    from clocks import GEMM_FLOPS, DeviceClock, HostClock
    from contenders import contenders_for
    from measure import Bench, Limits
    from prepare import prepare

    try:
        contenders = contenders_for(
            options.device,
            options.host_time,
            peers=options.peers,
            family=options.family,
            softcap=bool(options.softcap),
            deterministic=options.deterministic,
            builds=dict(options.builds),
        )
    except LookupError as error:
        parser.error(str(error))
    on_device = options.device == "cuda" and not options.host_time
    clock = DeviceClock() if on_device else HostClock(HOST_REPEATS if options.host_time else 1)
    limits = Limits(options.rounds, options.seconds_per_cell, options.bound)
    bench = Bench(options.device, contenders, clock, limits)
    result = {
        "device": options.device,
        "machine": machine.describe(options.device),
        "versions": machine.versions(c.package for c in contenders),
        "commit": machine.commit(),
        "settings": settings_of(options),
        "contenders": [contender.name for contender in contenders],
        "gemm_flops": GEMM_FLOPS if on_device else None,
        "cells": [],
    }
    print_heading(result)
    cells = cells_of(options)
    seconds = prepare(contenders, cells, options.device)
    if options.device == "cuda":
        print(f"flashattn's kernels prepared in {seconds:.1f} s")
    table = Table(result)
    for cell in cells:
        result["cells"].append(bench.measure(cell))
        table.add(result["cells"][-1])
        write_json(result, options.json)
    return result


def settings_of(options: argparse.Namespace) -> dict:
    where = ("json", "plot", "source", "device")
    return {name: value for name, value in vars(options).items() if name not in where}


def print_heading(result: dict) -> None:
    machine = result["machine"]
    threads = f", {machine['threads']} threads" if "threads" in machine else ""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    print(f"{machine['name']}{threads}; {versions}; commit {result['commit']}")


def write_json(result: dict, target: Path | None) -> None:
    """Whole at any time: an earlier state stays until the new one is complete."""
    if target is None:
        return
    aside = target.with_name(target.name + ".part")
    aside.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    aside.replace(target)


def read_json(parser: argparse.ArgumentParser, source: Path) -> dict:
    try:
        result = json.loads(source.read_text())
        print_heading(result)
        table = Table(result)
        for cell in result["cells"]:
            table.add(cell)
        if not result["cells"]:
            parser.error(f"--from {source}: has no cells")
        return result
    except (OSError, ValueError) as error:
        parser.error(f"--from {source}: {error}")
    except (KeyError, TypeError):
        parser.error(f"--from {source}: is no result of this program")


def main() -> NoReturn:
    parser = new_parser()
    options = parser.parse_args()
    check_usage(parser, options)
    result = read_json(parser, options.source) if options.source else measure(parser, options)
    print_summary(result)
    if options.plot:
        import plot

        plot.draw(result, options.plot)
    sys.exit(1 if any(OURS in cell["wrong"] for cell in result["cells"]) else 0)


if __name__ == "__main__":
    main()
