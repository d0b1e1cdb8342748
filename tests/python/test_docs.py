"""Every Python block of the documentation and every example runs, each in a process of its own."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "docs/python.md"])
def test_python_blocks_run(page, tmp_path):
    blocks = BLOCK.findall((ROOT / page).read_text())
    assert blocks
    for block in blocks:
        run = subprocess.run(
            [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, f"{block}\n{run.stderr}"


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_run(example):
    run = subprocess.run([sys.executable, example], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout
