#!/usr/bin/env python3
"""Breaks the library in one place at a time and asks whether a test notices.

tests/mutants.json lists the mutants: the text to find in a file (exactly once), its replacement,
and the test program that must fail. The sources are copied to build-mutants/ and built there, for
AVX2 only; the tree itself stays as it is.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build-mutants"
SOURCE = FOLDER / "source"
BUILD = FOLDER / "build"
ARGUMENTS = {"property_test": ["best", "400", "7"]}  # instruction set, problems, seed


def run(command, **options):
    return subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )


def need(result):
    """Without any mutant everything must go well."""
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, result.args))} failed:\n{result.stdout[-4000:]}")


def build(mutants, jobs):
    targets = sorted({mutant["test"] for mutant in mutants})
    return run(["cmake", "--build", BUILD, "-j", str(jobs), "--target", *targets])


def copy_sources():
    """Starts anew: objects of an earlier run's mutants would look up to date."""
    hidden = shutil.ignore_patterns("build*", "venv", ".*", "__pycache__")
    shutil.rmtree(FOLDER, ignore_errors=True)
    shutil.copytree(ROOT, SOURCE, ignore=hidden)


def test(name):
    return run([BUILD / "tests" / name, *ARGUMENTS.get(name, [])])


def verdict(mutant, jobs):
    """Applies the mutant, builds, tests, and puts the file back. "killed" is what is wanted."""
    file = SOURCE / mutant["file"]
    original = file.read_text()
    if original.count(mutant["find"]) != 1:
        return f"IS FOUND {original.count(mutant['find'])} times: {mutant['find']}"
    file.write_text(original.replace(mutant["find"], mutant["replace"]))
    try:
        built = build([mutant], jobs)
        if built.returncode != 0:
            return f"DOES NOT BUILD\n{built.stdout}"
        status = test(mutant["test"]).returncode
        return {0: "SURVIVES", 1: "killed"}.get(status, f"ENDS WITH {status}")
    finally:
        file.write_text(original)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("names", nargs="*", help="mutants to try; all of them by default")
    arguments = parser.parse_args()
    mutants = json.loads((ROOT / "tests" / "mutants.json").read_text())
    if arguments.names:
        mutants = [mutant for mutant in mutants if mutant["name"] in arguments.names]

    copy_sources()
    flags = ["-DFA_ONE_TARGET=AVX2", "-DFA_BUILD_CLI=OFF"]
    need(run(["cmake", "-S", SOURCE, "-B", BUILD, "-G", "Ninja", *flags]))
    need(build(mutants, arguments.jobs))
    for name in sorted({mutant["test"] for mutant in mutants}):
        need(test(name))

    survivors = 0
    for mutant in mutants:
        begin = time.monotonic()
        outcome = verdict(mutant, arguments.jobs)
        survivors += outcome != "killed"
        seconds = time.monotonic() - begin
        print(f"{mutant['name']:28} {mutant['test']:16} {seconds:6.1f} s  {outcome}", flush=True)
    print(f"{len(mutants) - survivors} of {len(mutants)} mutants killed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
