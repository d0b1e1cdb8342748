"""bench/tile_table.py, with a program in the place of `tiles`, which needs a GPU."""

import json
import pathlib
import re
import subprocess
import sys

import pytest

TABLE = pathlib.Path(__file__).resolve().parents[2] / "bench" / "tile_table.py"
# 128 keys a step are planned. 64 are a quarter faster for sequences of 512. For those of 64 there
# is no device.
PROGRAM = """\
import json, sys
a = sys.argv[1:]
of = lambda name: a[a.index(name) + 1]
length = int(of("--seqlen"))
tile = {"groups": 2, "keys": 128, "claims": 1}
planned = {"planned": True, "tile": tile, "milliseconds": [2.0, 1.0, 3.0]}
other = {"planned": False, "tile": tile | {"keys": 64}, "milliseconds": [1.0] * 3}
planned["ratio"], other["ratio"] = 1.0, 1.25 if length == 512 else 1.004
problem = {"head_dim": int(of("--head-dim")), "causal": "--causal" in a, "seqlen_k": length}
found = {"problem": problem | {"flops": 4e11}, "tiles": [planned, other, {"planned": False}]}
open(of("--json"), "w").write(json.dumps(found))
print("no device" if length == 64 else "timed", a)
sys.exit(length == 64)
"""
ROWS = """\
| 128 | full | 512 | 200 | 1.25 | keys 128 -> 64 |
| 128 | full | 1024 | 200 | 1.00 |  |
| 128 | causal | 512 | 200 | 1.25 | keys 128 -> 64 |
| 128 | causal | 1024 | 200 | 1.00 |  |
"""


def run(*arguments):
    command = [sys.executable, TABLE, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "tiles"
    path.write_text(f"#!{sys.executable}\n{PROGRAM}")
    path.chmod(0o755)
    return path


def test_says_where_the_planned_tile_is_not_the_best(program, tmp_path):
    found, table = tmp_path / "tiles.json", tmp_path / "tiles.md"
    grid = ["--head-dims", 128, "--seqlens", 512, 1024]
    done = run("--tiles", program, *grid, "--json", found, "--out", table)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(ROWS)
    assert table.read_text() == done.stdout
    assert len(json.loads(found.read_text())) == 4
    assert run("--from", found).stdout == done.stdout


TABLE_OF_PLAN = """\
    // groups, keys, claims
    {64, false, {3, 128, true}},
    {128, false, {2, 128, false}},
    {128, true, {2, 128, true}},
"""


def test_writes_the_plan(program, tmp_path):
    plan = tmp_path / "table.hpp"
    plan.write_text(TABLE_OF_PLAN)
    grid = ["--head-dims", 128, "--seqlens", 512, 1024]
    done = run("--tiles", program, *grid, "--plan", plan)
    assert done.returncode == 0, done.stderr
    # 64 keys are 1.25 and 1.004 times as fast; they claim as the program's tiles do.
    changed = TABLE_OF_PLAN.replace("{2, 128, false}", "{2, 64, true}")
    assert plan.read_text() == changed.replace("{128, true, {2, 128,", "{128, true, {2, 64,")


def test_the_plan_has_what_the_kept_search_found(tmp_path):
    root = TABLE.parents[1]
    plan, copy = root / "src/plan/cuda/sm90/forward_tile_table.hpp", tmp_path / "table.hpp"
    copy.write_text(plan.read_text())
    kept = root / "bench/results/cuda-forward-sm90-tiles.json"
    done = run("--from", kept, "--plan", copy)
    assert done.returncode == 0, done.stderr
    assert copy.read_text() == plan.read_text()
    # One row for each of what was searched, and no other.
    runs = json.loads(kept.read_text())
    searched = {(run["problem"]["head_dim"], run["problem"]["causal"]) for run in runs}
    rows = re.findall(r"^    \{(\d+), (true|false), ", plan.read_text(), re.MULTILINE)
    assert sorted((int(widest), mask == "true") for widest, mask in rows) == sorted(searched)


def test_a_plan_without_the_row_is_left_as_it_is(program, tmp_path):
    plan = tmp_path / "table.hpp"
    plan.write_text(TABLE_OF_PLAN)
    done = run("--tiles", program, "--head-dims", 96, "--seqlens", 512, "--plan", plan)
    assert done.returncode == 1
    assert "no row {96, false, ..} and {96, true, ..}" in done.stderr
    assert plan.read_text() == TABLE_OF_PLAN


@pytest.mark.parametrize("name", ["json", "out", "plan", "from", "tiles"])
def test_files_are_tried_first(name, tmp_path):
    done = run(f"--{name}", tmp_path / "none" / "file")
    assert done.returncode == 2
    assert f"--{name}: " in done.stderr and "Traceback" not in done.stderr


def test_ends_with_what_the_program_says(program):
    done = run("--tiles", program, "--head-dims", 128, "--seqlens", 64, "--more=--alibi")
    assert done.returncode == 1
    assert "no device" in done.stderr
    assert "--alibi" in done.stderr


@pytest.mark.parametrize("seqlen", ["0", "-1", "1k"])
def test_wrong_usage(seqlen):
    done = run("--seqlens", seqlen)
    assert done.returncode == 2
    assert "--seqlens" in done.stderr
