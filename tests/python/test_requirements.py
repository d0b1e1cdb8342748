"""What the tools install is the files that were looked at, and nothing besides."""

import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "tools" / "requirements"
WITHOUT_HASHES = {"torch"}  # torch.txt says why


def packages(name):
    """The blocks of a locked file: what pins a package, with the lines that belong to it."""
    text = re.sub(r"\\\n", " ", (FOLDER / name).read_text())
    return [line for line in text.split("\n") if line and not line.lstrip().startswith("#")]


def test_every_package_is_pinned_with_hashes():
    names = {file.stem for file in FOLDER.glob("*.txt")}
    assert names == {file.stem for file in FOLDER.glob("*.in")} | WITHOUT_HASHES
    for name in names - WITHOUT_HASHES:
        locked = packages(f"{name}.txt")
        assert locked
        for line in locked:
            assert re.match(r"[a-z0-9._-]+==[^ ]+ ", line), line
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), line


def test_the_locked_files_are_of_what_is_asked_for():
    for source in FOLDER.glob("*.in"):
        locked = {line.split()[0].replace("_", "-") for line in packages(source.stem + ".txt")}
        names = {pin.split("==")[0] for pin in locked}
        for line in packages(source.name):
            asked = line.replace("_", "-")
            assert asked in (locked if "==" in asked else names), (
                f"{asked}: tools/requirements/lock"
            )


def test_the_tools_install_them_so():
    for tool in ("python_env", "lint_tools", "nvrtc"):
        text = (FOLDER.parent / tool).read_text().replace("\\\n", " ")
        installs = [
            line for line in text.split("\n") if re.search(r'install(\[@\]|")|pip" install ', line)
        ]
        installs = [line for line in installs if "-r" in line]
        assert installs, tool
        for line in installs:
            assert "--require-hashes" in line or "/torch.txt" in line, line
