#!/usr/bin/env python3
"""Checks what the Markdown files promise, and exits 1 when something is wrong:

- relative links lead to a file, and its heading where they name one;
- files named in `code` exist;
- `make` and `fa` commands name targets, subcommands and options that exist (fa: if it is built).

tests/install/documented runs the commands and compiles the blocks.
"""

import functools
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FA = ROOT / "build" / "fa"
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PATH = re.compile(
    r"(?:include|src|support|cli|tests|bench|docs|examples|tools|cmake)/[\w./-]*\w|[A-Z]\w+\.md"
)


def markdown_files():
    for path in sorted(ROOT.rglob("*.md")):
        parts = path.relative_to(ROOT).parts
        if not any(part.startswith(("build", "venv", ".")) for part in parts):
            yield path


def slug(heading):
    """The anchor that code hosts give a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


@functools.cache
def anchors(path):
    text = FENCE.sub("", path.read_text())
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@functools.cache
def make_targets():
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@functools.cache
def help_text(*command):
    return subprocess.run(
        [FA, *command, "--help"], capture_output=True, text=True, check=False
    ).stdout


def wrong_links(path, prose):
    for target in LINK.findall(prose):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists():
            yield f"link to {target}: no such file"
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            yield f"link to {target}: no such heading"


def wrong_paths(prose):
    for code in INLINE.findall(prose):
        if PATH.fullmatch(code) and not (ROOT / code).exists():
            yield f"`{code}`: no such file"


def wrong_commands(code):
    for target in re.findall(r"(?:^|[;&`$] *)make ([a-z-]+)", code, re.MULTILINE):
        if target not in make_targets():
            yield f"`make {target}`: no such target"
    if not FA.exists():
        return
    for line in re.findall(r"(?:^|[;&`$] *)(?:build/)?fa ([a-z].*)$", code, re.MULTILINE):
        command, *rest = line.split()
        if not re.search(rf"^ *{re.escape(command)}\b", help_text(), re.MULTILINE):
            yield f"`fa {command}`: no such command"
            continue
        for option in re.findall(r"(?<!\S)--[a-z][\w-]*", " ".join(rest)):
            if not re.search(rf"{option}\b", help_text(command)):
                yield f"`fa {command} {option}`: no such option"


def mistakes(path):
    text = path.read_text()
    prose = FENCE.sub("", text)
    yield from wrong_links(path, prose)
    yield from wrong_paths(prose)
    for code in INLINE.findall(prose):
        yield from wrong_commands(code)
    for language, code in FENCE.findall(text):
        if language in ("", "sh", "bash", "console"):
            yield from wrong_commands(code.replace("\\\n", " "))


def main():
    files = list(markdown_files())
    wrong = 0
    for path in files:
        for mistake in mistakes(path):
            print(f"{path.relative_to(ROOT)}: {mistake}")
            wrong += 1
    print(f"{len(files)} Markdown files, {wrong} mistakes")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
