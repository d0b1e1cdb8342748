"""What the documentation says to Python users, done: the README's commands make an environment
from the wheel (of tools/build_wheel), and every Python block runs there, in a process of its own,
with no setting of the test's. PyTorch and transformers, gigabytes, are lent from the tests'
environment. Of the commands that run a script for minutes, the script must take the options."""

import os
import pathlib
import re
import shlex
import subprocess
import sys
import sysconfig

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = ["README.md", "docs/python.md"]


def run(command, folder):
    """As a user would, who is in no environment yet."""
    ours = ("PYTHON", "PYTEST", "VIRTUAL_ENV", "OMP_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
    return ended.stdout


def install_commands(page):
    """The lines below "make wheel", which built what is tested here."""
    return re.search(r"^    make wheel\n((?:    .*\n)+)", (ROOT / page).read_text(), re.M).group(1)


@pytest.fixture(scope="module")
def with_numpy(tmp_path_factory):
    """The Python of an environment that the README's commands made."""
    if not list((ROOT / "build-python" / "dist").glob("*.whl")):
        pytest.fail("no wheel in build-python/dist: tools/build_wheel")
    folder = tmp_path_factory.mktemp("user")
    (folder / "build-python").symlink_to(ROOT / "build-python")
    run(["bash", "-euc", install_commands("README.md")], folder)
    return folder / "venv" / "bin" / "python"


@pytest.fixture
def with_torch(with_numpy):
    """The same, as after `pip install torch transformers`, for one test."""
    purelib = run(
        [with_numpy, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], None
    )
    lent = pathlib.Path(purelib.strip()) / "lent.pth"
    lent.write_text(sysconfig.get_path("purelib") + "\n")
    yield with_numpy
    lent.unlink()


def blocks():
    for page in PAGES:
        for number, block in enumerate(BLOCK.findall((ROOT / page).read_text())):
            yield pytest.param(block, id=f"{page}-{number}")


def test_both_pages_install_alike():
    commands = [re.sub(r" +#.*", "", install_commands(page)) for page in PAGES]
    assert commands[0] == commands[1]


def test_without_torch(with_numpy, tmp_path):
    run([with_numpy, ROOT / "tests" / "python" / "without_torch.py"], tmp_path)
    needs_numpy_alone = [p.values[0] for p in blocks() if "torch" not in p.values[0]]
    assert needs_numpy_alone
    for block in needs_numpy_alone:
        run([with_numpy, "-c", block], tmp_path)


@pytest.mark.parametrize("block", list(blocks()))
def test_python_blocks_run(block, with_torch, tmp_path):
    run([with_torch, "-c", block], tmp_path)


def script_commands():
    """`python bench/x.py --option value` and the like, of every page."""
    patterns = ("*.md", "docs/**/*.md", "tests/**/*.md")
    for page in sorted(path for pattern in patterns for path in ROOT.glob(pattern)):
        text = page.read_text()
        commands = re.findall(r"`([^`\n]+)`", text) + re.findall(r"^    (\S.*)$", text, re.M)
        for command in commands:
            found = re.match(
                r"(?:python3? )?((?:bench|examples|tests|tools)/[\w./-]+) (-.*)", command
            )
            if found is None or not (ROOT / found.group(1)).is_file():
                continue
            first_line = (ROOT / found.group(1)).read_text().partition("\n")[0]
            if found.group(1).endswith(".py") or "python" in first_line:
                yield pytest.param(*found.groups(), id=f"{page.relative_to(ROOT)}: {command}")


@pytest.mark.parametrize(("script", "options"), list(script_commands()))
def test_scripts_take_the_options_of_the_text(script, options, tmp_path):
    told = run([sys.executable, ROOT / script, *shlex.split(options), "--help"], tmp_path)
    for option in re.findall(r"(?<!\S)--?[a-z][\w-]*", options):
        assert re.search(rf"(?<![\w-]){option}\b", told), told


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_run(example, with_torch, tmp_path):
    assert run([with_torch, example], tmp_path)
