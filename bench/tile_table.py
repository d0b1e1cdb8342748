#!/usr/bin/env python3
"""Searches tiles of the forward kernel over a grid of problems and writes the table of the best.

Each problem is one run of the program `tiles` (build/bench/tiles --search), which makes the
candidates as the plan does, holds their results against the planned tile's and times them in
shuffled rounds. The table says where the plan's tile is not the best; the JSON has every run.
--plan writes the plan's own table of family sm90: of each head_dim and mask the tile that is the
fastest in the mean over the lengths, if by 2% faster than the planned one: the best of a hundred
equal ones is 1% faster by chance.

  bench/tile_table.py --json tiles.json --out tiles.md
  bench/tile_table.py --json tiles.json --plan src/plan/cuda/sm90/forward_tile_table.hpp
  bench/tile_table.py --head-dims 128 --seqlens 512 4096 --more=--family --more=sm80
  bench/tile_table.py --from tiles.json                     # the table again, without a GPU
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from statistics import geometric_mean, median

from outputs import why_not

PROGRAM = Path(__file__).resolve().parents[1] / "build" / "bench" / "tiles"
WITHIN_NOISE = 1.01  # of the planned tile's time
WORTH_A_CHANGE = 1.02
KEPT = ("planned", "spill_bytes", "ratio", "milliseconds", "tile")  # of each tile
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
    add("--plan", type=Path, help="write the tiles into this file of the plan, which exists")
    add("--from", dest="source", type=Path, help="make the table of this file; time nothing")
    options = parser.parse_args(arguments)
    for name in ("json", "out", "plan"):
        target = getattr(options, name)
        if target and (problem := why_not(target)):
            parser.error(f"--{name}: {problem}")
    for name, source in (("from", options.source), ("plan", options.plan)):
        if source and not source.is_file():
            parser.error(f"--{name}: there is no file {source}")
    if not options.source and not options.tiles.is_file():
        parser.error(f"--tiles: there is no file {options.tiles}; make build makes it")
    return options


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


def text_of(runs: list[dict]) -> str:
    """JSON with a line for each tile."""
    parts = []
    for run in runs:
        tiles = ",\n  ".join(json.dumps(kept(tile)) for tile in run["tiles"])
        rest = json.dumps({name: value for name, value in run.items() if name != "tiles"})
        parts.append(f'{rest[:-1]},\n "tiles": [\n  {tiles}]}}')
    return "[" + ",\n".join(parts) + "]\n"


def kept(tile: dict) -> dict:
    some = {name: tile[name] for name in KEPT if name in tile}
    if "milliseconds" in some:
        some["milliseconds"] = [float(f"{time:.4g}") for time in some["milliseconds"]]
        some["ratio"] = round(some["ratio"], 4)
    return some


def timed(run: dict) -> list[dict]:
    return [tile for tile in run["tiles"] if "ratio" in tile]


def row_of(run: dict) -> str:
    problem = run["problem"]
    tiles = timed(run)
    planned = next(tile for tile in tiles if tile["planned"])
    best = max(tiles, key=lambda tile: tile["ratio"])
    rate = problem["flops"] / median(planned["milliseconds"]) * 1e-9
    other = differences(planned, best) if best["ratio"] >= WITHIN_NOISE else ""
    ratio = f"{best['ratio']:.2f}" if other else "1.00"
    mask = "causal" if problem["causal"] else "full"
    cells = (problem["head_dim"], mask, problem["seqlen_k"], f"{rate:.0f}", ratio, other)
    return f"| {' | '.join(map(str, cells))} |"


def differences(planned: dict, best: dict) -> str:
    names = [name for name, number in best["tile"].items() if planned["tile"][name] != number]
    return ", ".join(f"{name} {planned['tile'][name]} -> {best['tile'][name]}" for name in names)


def mean_ratio(tile: dict, runs: list[dict]) -> float:
    """The geometric mean over the runs; 0 where one of them lacks the tile."""
    ratios = []
    for run in runs:
        found = [one["ratio"] for one in timed(run) if one["tile"] == tile]
        if not found:
            return 0.0
        ratios.append(found[0])
    return geometric_mean(ratios)


def best_tile(runs: list[dict]) -> dict:
    tiles = timed(runs[0])
    planned = next(one["tile"] for one in tiles if one["planned"])
    best = max((one["tile"] for one in tiles), key=lambda tile: mean_ratio(tile, runs))
    return best if mean_ratio(best, runs) >= WORTH_A_CHANGE else planned


def write_plan(path: Path, runs: list[dict]) -> None:
    """Replaces the rows of the table for the head_dims and masks that were searched, each of which
    must have one."""
    searched: dict[tuple[str, str], list[dict]] = {}
    for run in runs:
        problem = run["problem"]
        key = str(problem["head_dim"]), "true" if problem["causal"] else "false"
        searched.setdefault(key, []).append(run)
    lines = path.read_text().splitlines()
    names: list[str] = []
    for n, line in enumerate(lines):
        if line.startswith("    // groups, "):
            names = line.removeprefix("    // ").split(", ")
        row = re.match(r"    \{(\d+), (true|false), \{(.*)\}\},$", line)
        if row is None or (found := searched.pop((row[1], row[2]), None)) is None:
            continue
        tile = best_tile(found)
        numbers = [
            ("true" if tile[name] else "false") if old in ("true", "false") else str(tile[name])
            for name, old in zip(names, row[3].split(", "), strict=True)
        ]
        lines[n] = f"    {{{row[1]}, {row[2]}, {{{', '.join(numbers)}}}}},"
    if searched:
        missing = " and ".join(f"{{{head_dim}, {mask}, ..}}" for head_dim, mask in searched)
        sys.exit(f"--plan: {path} has no row {missing}")
    path.write_text("\n".join(lines) + "\n")


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
            options.json.write_text(text_of(runs))
    if options.out:
        options.out.write_text("\n".join(rows) + "\n")
    if options.plan:
        write_plan(options.plan, runs)


if __name__ == "__main__":
    main()
