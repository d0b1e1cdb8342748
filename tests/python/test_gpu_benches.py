"""bench/options.py, decode.py, counters.py and first_call.py, as far as they go without a GPU."""

import os
import pathlib
import subprocess
import sys

import pytest
import torch

BENCH = pathlib.Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch):
    """Modules of bench/ can be imported."""
    monkeypatch.syspath_prepend(str(BENCH))


@pytest.mark.parametrize("program", ["options.py", "decode.py", "counters.py", "first_call.py"])
def test_says_that_there_is_no_device(program, tmp_path):
    def run(*arguments):
        command = [sys.executable, BENCH / program, *arguments]
        hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}  # where there is a device
        return subprocess.run(
            list(map(str, command)), capture_output=True, text=True, check=False, env=hidden
        )

    done = run("--json", tmp_path / "result.json")
    assert done.returncode == 2
    assert "finds no CUDA device" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert "--json: " in run("--json", tmp_path).stderr
    if program != "counters.py":
        assert "--rounds: " in run("--rounds", "0").stderr


def test_counters_are_read_from_what_ncu_prints(bench):
    import counters

    names = ["ID", *counters.METRICS.values()]
    names += [wait.join(counters.STALL) for wait in ("wait", "barrier")]
    line = ["0", *["1,500.25"] * len(counters.METRICS), "3", "1"]
    lines = [names, [""] * len(names), *[line] * len(counters.PROBLEMS)]
    text = "==PROF== Connected\n" + "\n".join(",".join(f'"{x}"' for x in one) for one in lines)
    found = counters.counters(text)
    assert list(found) == list(counters.PROBLEMS)
    first = found["128 causal, 4k"]
    assert first["tensor cores"] == 1500.2 and first["microseconds"] == 1.5
    assert first["waits"] == {"wait": 75.0, "barrier": 25.0}
    with pytest.raises(SystemExit, match="1 kernels"):
        counters.counters("\n".join(text.splitlines()[:4]))


def test_a_window_costs_by_the_pairs_that_it_sees(bench):
    import options
    from cells import Cell

    cell = Cell("forward", "bfloat16", 2, 8192, 8192, 16, 16, 128, True)
    rounds = [{"plain": 4.0, "softcap": 6.0, "window 1024": 1.0}] * 3
    found = options.costs(cell, rounds)
    assert found["plain"] == 1
    assert found["softcap"] == 1.5
    seen = 1025 * (8192 - 512) / (0.5 * 8192**2)
    assert found["window 1024"] == pytest.approx(0.25 / seen)


def test_rounds_have_the_order_of_the_timers(bench):
    from clocks import shuffled_rounds

    called = []
    timers = {name: lambda name=name: called.append(name) or float(len(called)) for name in "abcd"}
    rounds = shuffled_rounds(timers, 6)
    assert [list(found) for found in rounds] == [list("abcd")] * 6
    turns = [called[at : at + 4] for at in range(0, 24, 4)]
    assert all(sorted(turn) == list("abcd") for turn in turns)
    assert len(set(map(tuple, turns))) > 1  # shuffled


def test_decoding_is_held_against_the_formula(bench):
    import decode

    torch.manual_seed(1)
    q, k, v = (torch.randn(2, rows, heads, 16) for rows, heads in ((1, 6), (9, 2), (9, 2)))
    turned = [t.transpose(1, 2) for t in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*turned, enable_gqa=True)
    torch.testing.assert_close(decode.exact(q, k, v), expected.transpose(1, 2))
