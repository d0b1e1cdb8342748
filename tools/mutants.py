#!/usr/bin/env python3
"""Breaks the library in one place at a time and asks whether a test notices.

A comment in src/ marks each place:

    // mutant "NAME" of TEST: TEXT => OTHER

It speaks of one of the three lines of code below it, in which TEXT, an expression, stands once.
TEST is property_test where none is named; "emulated" is random problems on the emulated GPU. All
mutants are built at once: a copy of the sources, in build-mutants/, has in TEXT's place one that
chooses OTHER where the environment's FA_MUTANT has the mutant's number.
"""

import argparse
import concurrent.futures
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import zlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build-mutants"
SOURCE = FOLDER / "source"
BUILD = FOLDER / "build"
HEADER = FOLDER / "mutant.h"

MARK = re.compile(r'// mutant "([^"]+)"(?: of (\w+))?: (.+) => (.+)$')
REACH = 3  # lines of code below a mark
LONGEST = 600  # seconds of a test

CHOICE = """#pragma once
#include <cstdlib>
inline const int fa_mutant = std::getenv("FA_MUTANT") ? std::atoi(std::getenv("FA_MUTANT")) : 0;
"""


@dataclasses.dataclass
class Mutant:
    number: int
    name: str
    test: str
    original: str
    broken: str
    place: str
    reach: int = REACH


def with_choices(path, mutants):
    """The text of a source with its mutants, which are appended to the list."""
    waiting, chosen = [], []
    for index, line in enumerate(path.read_text().split("\n")):
        chosen.append(line)
        mark = MARK.search(line)
        if not mark and "// mutant" in line:
            sys.exit(f"{path.relative_to(SOURCE)}:{index + 1}: no mark of a mutant: {line.strip()}")
        if mark:
            name, test, original, broken = mark.groups()
            place = f"{path.relative_to(SOURCE)}:{index + 1}"
            number = zlib.crc32(name.encode()) & 0x7FFFFFFF  # the same when others come
            if number == 0 or any(mutant.number == number for mutant in mutants):
                sys.exit(f'{place}: there are two mutants "{name}", or two of its number')
            test = test or "property_test"
            mutants.append(Mutant(number, name, test, original, broken, place))
            waiting.append(mutants[-1])
            continue
        for mutant in list(waiting):
            count = chosen[-1].count(mutant.original)
            mutant.reach -= 1
            if count == 1:
                choice = f"(fa_mutant == {mutant.number} ? ({mutant.broken}) : ({mutant.original}))"
                chosen[-1] = chosen[-1].replace(mutant.original, choice)
                waiting.remove(mutant)
            elif count > 1 or mutant.reach == 0:
                sys.exit(f'{mutant.place}: "{mutant.original}" is there {count} times')
    for mutant in waiting:
        sys.exit(f'{mutant.place}: "{mutant.original}" is not there')
    return "\n".join(chosen)


def copy_sources():
    """The tree in SOURCE, its marks turned into choices; returns the mutants."""
    hidden = shutil.ignore_patterns("build*", "venv", ".*", "__pycache__")
    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.copytree(ROOT, SOURCE, ignore=hidden)
    if not HEADER.exists() or HEADER.read_text() != CHOICE:
        HEADER.write_text(CHOICE)
    mutants = []
    for path in sorted((SOURCE / "src").rglob("*")):
        if path.is_file():
            times = path.stat()
            path.write_text(with_choices(path, mutants))
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # built anew where it changed
    return mutants


def run(command, mutant=0, seconds=None, **environment):
    return subprocess.run(
        list(map(str, command)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=seconds,
        env=os.environ | environment | {"FA_MUTANT": str(mutant)},
    )


def need(result):
    """Without any mutant everything must go well."""
    if result.returncode != 0:
        sys.exit(f"{' '.join(result.args)} failed:\n{result.stdout[-4000:]}")


def build(tests, jobs):
    flags = [
        "-DFA_ONE_TARGET=AVX2",
        "-DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON",  # which would have to come before HEADER
        f"-DCMAKE_CXX_FLAGS=-include {HEADER}",
    ]
    need(run(["cmake", "-S", SOURCE, "-B", BUILD, "-G", "Ninja", *flags]))
    targets = {"emulated": ["property_test", "fa_emulated_driver", "fa_emulated_nvrtc"]}
    wanted = [target for test in tests for target in targets.get(test, [test])]
    need(run(["cmake", "--build", BUILD, "-j", jobs, "--target", *wanted]))


def test(name, mutant=0):
    if name == "property_test":
        # Mutants are tried side by side, each by one thread.
        problems = ["best", 400, 7, 1]
        return run([BUILD / "tests" / name, *problems], mutant, LONGEST, OMP_NUM_THREADS="1")
    if name == "emulated":
        libraries = str(BUILD / "tests" / "emulator" / "lib")
        for seed in (3, 4, 11):  # 40 kernels each; the last ones tell what the first does not
            result = run(
                [BUILD / "tests" / "property_test", "cuda", 40, seed, 1],
                mutant,
                LONGEST,
                LD_LIBRARY_PATH=libraries,
                FA_NVRTC=libraries,
                FA_CACHE_DIR=str(FOLDER / "kernels"),
                FA_EMULATED_GPU="9.0",
            )
            if result.returncode != 0:
                break
        return result
    return run([BUILD / "tests" / name, "--gtest_fail_fast"], mutant, LONGEST)


def verdict(mutant):
    """What the mutant's test says of it, "killed" wanted, and in how many seconds."""
    begin = time.monotonic()
    try:
        status = test(mutant.test, mutant.number).returncode
        outcome = {0: "SURVIVES", 1: "killed"}.get(status, f"ENDS WITH {status}")
    except subprocess.TimeoutExpired:
        outcome = f"HANGS for {LONGEST} s"
    return outcome, time.monotonic() - begin


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("names", nargs="*", help="mutants to try; all of them by default")
    arguments = parser.parse_args()

    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "kernels").mkdir(mode=0o700, exist_ok=True)
    mutants = copy_sources()
    if unknown := set(arguments.names) - {mutant.name for mutant in mutants}:
        sys.exit(f"no such mutant: {', '.join(sorted(unknown))}")
    if arguments.names:
        mutants = [mutant for mutant in mutants if mutant.name in arguments.names]
    tests = sorted({mutant.test for mutant in mutants})
    build(tests, arguments.jobs)
    for name in tests:
        need(test(name))

    killed = 0
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for mutant, (outcome, seconds) in zip(mutants, pool.map(verdict, mutants), strict=True):
            killed += outcome == "killed"
            print(f"{mutant.name:36} {mutant.test:16} {seconds:6.1f} s  {outcome}", flush=True)
    print(f"{killed} of {len(mutants)} mutants killed")
    return 0 if killed == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
