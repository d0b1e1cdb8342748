"""bench/compare.py on a tiny grid: what it writes, draws and refuses."""

import json
import pathlib
import statistics
import subprocess
import sys

import pytest

COMPARE = pathlib.Path(__file__).resolve().parents[2] / "bench" / "compare.py"
TINY = "--head-dim 32 --seqlen 64 128 --tokens 128 --hidden 64 --rounds 3 --dtype float32 --causal"


def run(*arguments):
    return subprocess.run(
        [sys.executable, COMPARE, *map(str, arguments)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    files = "--json", folder / "tiny.json", "--plot", folder / "tiny.png"
    result = run(*TINY.split(), "--work", "forward", "backward", *files)
    assert result.returncode == 0, result.stderr
    return folder, json.loads((folder / "tiny.json").read_text()), result.stdout


def test_the_report_holds_every_round(report):
    _, data, printed = report
    assert {"device", "threads", "versions", "commit", "cells"} <= data.keys()
    assert [(c["work"], c["seqlen"]) for c in data["cells"]] == [
        (work, seqlen) for work in ("forward", "backward") for seqlen in (64, 128)
    ]
    for cell in data["cells"]:
        assert cell["failures"] == {}
        assert set(cell["seconds"]) == {"flashattn", "torch flash", "torch math"}
        assert all(0 < e < 1e-5 for e in cell["errors"].values())
        ours = cell["seconds"]["flashattn"]
        assert len(ours) == 3
        for peer, ratio in cell["ratios"].items():
            theirs = cell["seconds"][peer]
            assert ratio == statistics.median(a / b for a, b in zip(theirs, ours))
    assert "torch flash" in printed.splitlines()[-1] + printed.splitlines()[-2]


def test_a_report_is_drawn_again(report):
    folder, _, _ = report
    again = folder / "again.png"
    assert run("--from", folder / "tiny.json", "--plot", again).returncode == 0
    assert again.read_bytes()[:8] == (folder / "tiny.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert again.stat().st_size == (folder / "tiny.png").stat().st_size


def test_host_time(tmp_path):
    file = tmp_path / "host.json"
    assert run("--host-time", "--json", file).returncode == 0
    times = json.loads(file.read_text())["host_microseconds"]
    assert len(times) == 6
    assert all(value > 0 for value in times.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "x.json"], "--from: needs --plot"),
        (["--head-dim", "48"], "must divide --hidden"),
        (["--json", "/nowhere/x.json"], "cannot be written"),
        (["--rounds", "0"], "--rounds"),
        (["--causal", "--full"], "not allowed"),
    ],
)
def test_wrong_usage(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
