"""tools/test_all, which is `make test`, with test programs that only say how they end."""

import pathlib
import shutil
import subprocess

import pytest

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "test_all"


def run(folder, cpp_fails, python_fails):
    tools = folder / "tools"
    tools.mkdir()
    shutil.copy(TOOL, tools)
    log = folder / "build/Testing/Temporary/LastTestsFailed.log"
    log.parent.mkdir(parents=True)
    log.write_text("7:cuda_store_test\n12:plain_c\n")
    for name, fails in ("run_tests", cpp_fails), ("test_python", python_fails):
        program = tools / name
        program.write_text(f'#!/bin/sh\necho "ran {name} $*"\nexit {int(fails)}\n')
        program.chmod(0o755)
    return subprocess.run(
        [tools / "test_all", "--parallel", "2"], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("cpp_fails", [False, True])
@pytest.mark.parametrize("python_fails", [False, True])
def test_all_tests_run_and_what_failed_stands_at_the_end(tmp_path, cpp_fails, python_fails):
    ended = run(tmp_path, cpp_fails, python_fails)
    assert "ran run_tests build --parallel 2\nran test_python \n" in ended.stdout
    assert ended.returncode == int(cpp_fails or python_fails)
    assert ("make test-cpp: cuda_store_test plain_c\n" in ended.stderr) == cpp_fails
    assert ("make test-python" in ended.stderr) == python_fails
    assert ("all tests passed" in ended.stdout) == (ended.returncode == 0)
