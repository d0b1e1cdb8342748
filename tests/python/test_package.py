"""What the installed package consists of."""

import importlib.metadata
import subprocess
from pathlib import Path

import flashattn

PACKAGE = Path(flashattn.__file__).parent
ROOT = Path(__file__).parents[2]
RUNPATHS = ROOT / "tests" / "install" / "runpaths"


def test_no_library_looks_in_the_current_directory():
    libraries = sorted(file.name for file in PACKAGE.glob("*.so*"))
    assert libraries == ["flashattn_ffi.so", "libfa.so.0", "libgomp.so.1", "libhwy.so.1"]
    result = subprocess.run([RUNPATHS, PACKAGE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert result.stdout.startswith("4 programs and libraries looked at"), result.stdout


def test_the_libraries_are_hardened():
    result = subprocess.run(
        [ROOT / "tests" / "install" / "hardening", PACKAGE / "libfa.so.0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout


def test_the_licenses_of_all_that_is_inside():
    found = importlib.metadata.distribution("flashattn")
    assert found.metadata["License-Expression"] == (
        "BSD-3-Clause AND Apache-2.0 AND MIT AND GPL-3.0-or-later WITH GCC-exception-3.1"
    )
    files = {file.name: file for file in found.files if "licenses" in file.parts}
    texts = [ROOT / "LICENSE", *(ROOT / "licenses").iterdir()]
    assert set(files) == {text.name for text in texts}
    for text in texts:
        assert files[text.name].read_text() == text.read_text(), text
        assert files[text.name].parts[0].endswith(".dist-info")


def test_the_binding_shows_its_functions_alone():
    shown = subprocess.run(
        ["nm", "-D", "--defined-only", PACKAGE / "flashattn_ffi.so"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    names = [line.split()[-1] for line in shown if line]
    assert names and all(name.startswith("__tvm_ffi_") for name in names), names
