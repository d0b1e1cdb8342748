"""What the installed package consists of."""

import subprocess
from pathlib import Path

import flashattn

PACKAGE = Path(flashattn.__file__).parent
RUNPATHS = Path(__file__).parents[1] / "install" / "runpaths"


def test_no_library_looks_in_the_current_directory():
    libraries = sorted(file.name for file in PACKAGE.glob("*.so*"))
    assert libraries == ["flashattn_ffi.so", "libfa.so.0", "libgomp.so.1", "libhwy.so.1"]
    result = subprocess.run([RUNPATHS, PACKAGE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert result.stdout.startswith("4 programs and libraries looked at"), result.stdout
