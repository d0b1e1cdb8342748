"""bench/compare.py on a tiny grid, each run in a process of its own."""

import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys

import pytest

BENCH = pathlib.Path(__file__).resolve().parents[2] / "bench"
TINY = ["--dtypes", "float32", "--head-dims", "64", "--seqlens", "64", "128", "--tokens", "256"]
SDPA = ["--peers", "sdpa-flash", "sdpa-math"]  # more may be installed
# Ends as the program does, with a library that is wrong.
WRONG = f"""
import runpy, sys
import torch, flashattn
flashattn.flash_attn_func = lambda q, k, v, causal: v.clone()
sys.path.insert(0, {str(BENCH)!r})
runpy.run_path({str(BENCH / "compare.py")!r}, run_name="__main__")
"""


def run(*arguments, program=(str(BENCH / "compare.py"),)):
    command = [sys.executable, *program, *map(str, arguments)]
    # On a busy machine threads wait for each other by the time slice, on problems of microseconds.
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The folder of a run: result.json, plot.png, table.txt."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("compare")
    more = ["--rounds", 3, "--json", folder / "result.json", "--plot", folder / "plot.png", *SDPA]
    done = run("--passes", "forward", "backward", "training", "--both", *TINY, *more)
    assert done.returncode == 0, done.stderr
    (folder / "table.txt").write_text(done.stdout)
    return folder


def test_json_tells_where_from_and_every_round(measured):
    result = json.loads((measured / "result.json").read_text())
    assert set(result) == {
        *("device", "machine", "versions", "commit", "settings", "contenders", "gemm_flops"),
        "cells",
    }
    assert result["contenders"] == ["flashattn", "sdpa-flash", "sdpa-math"]
    assert {"python", "torch", "flashattn"} <= set(result["versions"])
    assert {"name", "driver", "threads"} <= set(result["machine"])
    cells = result["cells"]
    asked = {(c["work"], c["causal"], c["seqlen_q"]) for c in cells}
    assert len(cells) == len(asked) == 12
    for cell in cells:
        assert len(cell["rounds"]) == 3 * cell["measurements"]
        assert not cell["wrong"] and not cell["left_out"]
        assert all(set(seconds) == set(result["contenders"]) for seconds in cell["rounds"])
        outputs = {"out"} if cell["work"] == "forward" else {"dq", "dk", "dv"}
        assert all(set(found) == outputs for found in cell["errors"].values())


def test_flops_are_the_papers(measured):
    cells = json.loads((measured / "result.json").read_text())["cells"]
    for cell in cells:
        assert cell["batch"] * cell["seqlen_q"] == 256 and cell["heads_q"] * 64 == 256
        full_forward = 4 * 256 * cell["seqlen_k"] * 256
        of_forward = {"forward": 1, "backward": 2.5, "training": 3.5}[cell["work"]]
        factor = of_forward * (0.5 if cell["causal"] else 1)
        assert cell["flops"] == full_forward * factor


def test_ratios_are_medians_over_the_rounds(measured):
    cells = json.loads((measured / "result.json").read_text())["cells"]
    for cell in cells:
        expected = {
            peer: statistics.median(r[peer] / r["flashattn"] for r in cell["rounds"])
            for peer in ("sdpa-flash", "sdpa-math")
        }
        assert cell["ratios"] == pytest.approx(expected)


def test_an_earlier_run_gives_the_same_table_and_plot(measured, tmp_path):
    again = run("--from", measured / "result.json", "--plot", tmp_path / "again.png")
    assert again.returncode == 0, again.stderr
    assert again.stdout == (measured / "table.txt").read_text()
    assert (tmp_path / "again.png").read_bytes() == (measured / "plot.png").read_bytes()


def test_cells_that_are_not_of_the_grid(tmp_path):
    """FLOPs are of the pairs that are seen; peers take part where they can."""
    target = tmp_path / "result.json"
    sets = ["--models", "--varlen", 3, "--window", 20, "--softcap", 2, "--peers", "sdpa-math"]
    more = ["--passes", "forward", "backward", "--rounds", 1, "--seqlens", 128, "--json", target]
    tiny = ["--dtypes", "float32", "--head-dims", 64, "--tokens", 256]
    done = run(*sets, *tiny, *more)
    assert done.returncode == 0, done.stderr
    cells = json.loads(target.read_text())["cells"]
    assert [sum(c["work"] == work for c in cells) for work in ("forward", "backward")] == [7, 7]
    assert not any(cell["wrong"] for cell in cells)
    for cell in cells:
        heads, n = cell["heads_q"], cell["seqlen_q"]
        seen = [min(i + 1, cell["window"] + 1) if cell["window"] else i + 1 for i in range(n)]
        pairs = sum(seen) if cell["window"] else n * n / 2
        if cell["lengths"]:
            assert n == sum(cell["lengths"]) and len(cell["lengths"]) == 3
            pairs = sum(length**2 for length in cell["lengths"]) * (0.5 if cell["causal"] else 1)
        factor = 2.5 if cell["work"] == "backward" else 1
        expected = 4 * cell["batch"] * heads * cell["head_dim"] * pairs * factor
        assert cell["flops"] == pytest.approx(expected)
        peers = {"sdpa-math"} if cell["model"] or cell["window"] else set()
        peers |= {"no-softcap"} if cell["softcap"] else set()
        assert set(cell["rounds"][0]) == {"flashattn", *peers}
    again = run("--from", target)
    assert again.stdout == done.stdout


def test_lengths_of_packed_sequences():
    sys.path.insert(0, str(BENCH))
    try:
        from cells import packed_lengths
    finally:
        sys.path.remove(str(BENCH))
    lengths = packed_lengths(64)
    assert lengths == packed_lengths(64) and len(lengths) == 64
    assert 8 <= min(lengths) < 200 and 2000 < max(lengths) <= 8192


def test_a_slow_cell_has_its_first_calls_and_once_more(tmp_path):
    target = tmp_path / "result.json"
    limits = ["--seconds-per-cell", "1e-9", "--bound", "1e9", "--json", target]
    done = run("--passes", "backward", "--causal", *TINY, *limits)
    assert done.returncode == 0, done.stderr
    for cell in json.loads(target.read_text())["cells"]:
        assert cell["measurements"] == len(cell["rounds"]) == 2
        assert cell["rounds"][0] != cell["rounds"][1]


def test_a_wrong_result_of_ours_is_named_and_not_timed(tmp_path):
    target = tmp_path / "result.json"
    limits = ["--passes", "forward", "--full", "--rounds", 1, "--json", target]
    done = run(*TINY, *SDPA, *limits, program=("-c", WRONG))
    assert done.returncode == 1, done.stderr
    assert "flashattn: WRONG in forward, float32, head_dim 64, full, 64" in done.stdout
    for cell in json.loads(target.read_text())["cells"]:
        assert cell["wrong"] == ["flashattn"] and cell["ratios"] == {}
        assert all(set(r) == {"sdpa-flash", "sdpa-math"} for r in cell["rounds"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--hidden", "100"], "--hidden 100: is no multiple of --head-dims 64"),
        (["--seqlens", "0"], "--seqlens: invalid count value: '0'"),
        (["--json", "/nowhere/result.json"], "there is no folder /nowhere"),
        (["--json", "/dev"], "/dev: is not a regular file"),
        (["--plot", "/proc/plot.png"], "/proc/plot.png: cannot be written: "),
        (["--from", "/nowhere.json"], "--from /nowhere.json: "),
        (["--models", "--passes", "decode"], "--passes decode: on the CPU's grid only"),
        (["--models", "--host-time"], "not allowed with argument"),
        (["--window", "1k", "--passes", "decode"], "--passes decode: on the CPU's grid only"),
        (["--peers", "fa3"], "--peers fa3: not to be had here"),
        (["--softcap", "0"], "--softcap: invalid positive value: '0'"),
    ],
)
def test_wrong_usage(arguments, message):
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


def test_another_build_takes_part(tmp_path):
    library = importlib.util.find_spec("flashattn").submodule_search_locations[0]
    same = f"same={pathlib.Path(library) / 'libfa.so.0'}"
    found = tmp_path / "found.json"
    more = ["--rounds", 1, "--json", found, "--peers", "sdpa-flash", "--builds", same]
    done = run("--passes", "forward", "backward", "--both", *TINY, *more)
    assert done.returncode == 0, done.stderr
    for cell in json.loads(found.read_text())["cells"]:
        assert cell["errors"]["same"] == cell["errors"]["flashattn"]
        assert all(seconds["same"] > 0 for seconds in cell["rounds"])


@pytest.mark.parametrize("build", ["old", "old=", "=libfa.so", "old=nowhere/libfa.so"])
def test_a_build_that_is_none(build):
    done = run(*TINY, "--builds", build)
    assert done.returncode == 2
    assert "--builds" in done.stderr
