#!/usr/bin/env python3
"""Searches tiles of the forward kernel over a grid of problems and writes the table of the best.

Each problem is one run of the program `tiles` (build/bench/tiles --search), which makes the
candidates as the plan does, holds their results against the planned tile's and times them in
shuffled rounds. The table says where the plan's tile is not the best; the JSON has every run.

  bench/tile_table.py --json tiles.json --out tiles.md
  bench/tile_table.py --head-dims 128 --seqlens 512 4096 --more=--family --more=sm80
  bench/tile_table.py --from tiles.json                     # the table again, without a GPU
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from statistics import median

PROGRAM = Path(__file__).resolve().parents[1] / "build" / "bench" / "tiles"
WITHIN_NOISE = 1.01  # of the planned tile's time
HEADER = """\
| head_dim | mask | keys | TFLOP/s | best / planned | the best tile, where another |
|---|---|---|---|---|---|"""


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--head-dims", type=positive, nargs="+", default=[64, 128, 256], metavar="N")
    add("--seqlens", type=positive, nargs="+", default=[512, 2048, 8192], metavar="N")
    add("--rounds", type=positive, default=9, help="how often each tile is timed (9)")
    add("--more", action="append", default=[], help="a further argument of the program")
    add("--tiles", type=Path, default=PROGRAM, help="the program (build/bench/tiles)")
    add("--json", type=Path, help="write every run to this file")
    add("--out", type=Path, help="write the table to this file as well")
    add("--from", dest="source", type=Path, help="make the table of this file; time nothing")
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def search(options: argparse.Namespace) -> Iterable[dict]:
    """A run for each head_dim, mask and length."""
    for head_dim, causal, seqlen in product(options.head_dims, [False, True], options.seqlens):
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder) / "tiles.json"
            command = [options.tiles, "--head-dim", head_dim, "--seqlen", seqlen, "--search"]
            command += [*["--causal"][:causal], "--rounds", options.rounds, "--json", result]
            done = subprocess.run(
                [*map(str, command), *options.more], text=True, capture_output=True, check=False
            )
            if done.returncode != 0:  # a wrong result, or no device
                sys.exit(f"{done.stdout}{done.stderr}".rstrip())
            yield json.loads(result.read_text())


def row_of(run: dict) -> str:
    problem = run["problem"]
    timed = [tile for tile in run["tiles"] if "ratio" in tile]
    planned = next(tile for tile in timed if tile["planned"])
    best = max(timed, key=lambda tile: tile["ratio"])
    rate = problem["flops"] / median(planned["milliseconds"]) * 1e-9
    other = differences(planned, best) if best["ratio"] >= WITHIN_NOISE else ""
    ratio = f"{best['ratio']:.2f}" if other else "1.00"
    mask = "causal" if problem["causal"] else "full"
    cells = (problem["head_dim"], mask, problem["seqlen_k"], f"{rate:.0f}", ratio, other)
    return f"| {' | '.join(map(str, cells))} |"


def differences(planned: dict, best: dict) -> str:
    names = [name for name, number in best["tile"].items() if planned["tile"][name] != number]
    return ", ".join(f"{name} {planned['tile'][name]} -> {best['tile'][name]}" for name in names)


def main() -> None:
    options = parse(sys.argv[1:])
    runs = json.loads(options.source.read_text()) if options.source else []
    rows = [HEADER, *map(row_of, runs)]
    print("\n".join(rows))
    for run in [] if options.source else search(options):
        runs.append(run)
        rows.append(row_of(run))
        print(rows[-1], flush=True)
        if options.json:
            options.json.write_text(json.dumps(runs, indent=1) + "\n")
    if options.out:
        options.out.write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
