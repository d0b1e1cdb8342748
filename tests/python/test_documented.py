"""tests/install/documented skips nothing that its build should have."""

import importlib.machinery
import importlib.util
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def documented(monkeypatch, build):
    monkeypatch.setattr(sys, "argv", ["documented", str(build), str(ROOT)])
    path = str(ROOT / "tests" / "install" / "documented")
    loader = importlib.machinery.SourceFileLoader("documented", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("documented", loader))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(("value", "expected"), [("ON", True), ("1", True), ("OFF", False)])
def test_whether_there_are_programs_is_what_the_build_was_told(
    monkeypatch, tmp_path, value, expected
):
    (tmp_path / "CMakeCache.txt").write_text(f"A:BOOL=OFF\nFA_BUILD_CLI:BOOL={value}\n")
    assert documented(monkeypatch, tmp_path).has_programs() is expected


def test_a_program_that_is_not_built_is_an_error(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match=r"build/bench/\w+ .*is not built"):
        documented(monkeypatch, tmp_path).check_programs()
    bench = tmp_path / "bench"
    bench.mkdir()
    for name in ("tiles", "ablation"):
        (bench / name).write_text("#!/bin/sh\necho --none-of-the-options\n")
        (bench / name).chmod(0o755)
    with pytest.raises(SystemExit, match="is none of .*'s options"):
        documented(monkeypatch, tmp_path).check_programs()
