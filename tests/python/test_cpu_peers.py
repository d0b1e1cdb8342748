"""bench/compare.py's peers that come with packages of their own, where they are installed."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

COMPARE = pathlib.Path(__file__).resolve().parents[2] / "bench" / "compare.py"
MODULES = {
    "ort-gqa": "onnxruntime",
    "ort-mha": "onnxruntime",
    "ggml": "llama_cpp_py_sync",
    "zentorch": "zentorch",
}
TINY = ["--dtypes", "float32", "--head-dims", "64", "--seqlens", "96", "--tokens", "192"]
QUICK = ["--rounds", "1", "--seconds-per-cell", "0.1"]


def run(*arguments):
    command = [sys.executable, str(COMPARE), *map(str, arguments)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=one_thread)


@pytest.mark.parametrize("peer", MODULES)
def test_is_right_or_says_what_is_missing(peer, tmp_path):
    result = tmp_path / "result.json"
    done = run("--passes", "forward", *TINY, *QUICK, "--peers", peer, "--json", result)
    if importlib.util.find_spec(MODULES[peer]) is None:
        assert done.returncode == 2
        assert f"--peers {peer}: needs {MODULES[peer]}" in done.stderr
        return
    if "does not load" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    full, causal = json.loads(result.read_text())["cells"]
    assert not full["wrong"] and not causal["wrong"]
    assert causal["errors"][peer]["out"] < 1e-5
    if peer == "ort-gqa":
        assert full["left_out"] == {peer: "is always causal"}
    else:
        assert full["errors"][peer]["out"] < 1e-5


def test_all_that_can_be_had_take_part(tmp_path):
    """Whatever is not installed does not stand in the way of the others."""
    result = tmp_path / "result.json"
    done = run("--passes", "forward", "--causal", *TINY, *QUICK, "--json", result)
    assert done.returncode == 0, done.stderr
    contenders = json.loads(result.read_text())["contenders"]
    assert contenders[:3] == ["flashattn", "sdpa-flash", "sdpa-math"]
    assert set(contenders[3:]) <= set(MODULES)
