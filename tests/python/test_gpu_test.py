"""tools/gpu_test with programs that only pretend: what it makes of their answers."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

TOOL = pathlib.Path(__file__).resolve().parents[2] / "tools" / "gpu_test"

INFO = """\
version          0.1.0 (0123456789ab)
cuda driver      CUDA 12.8
cuda device 0    Some GPU (sm_90a), 132 SMs, 227 KiB of shared memory a block, 50 MiB of L2
nvrtc            12.8 /somewhere/libnvrtc.so.12
"""
NO_DEVICE = "cuda driver      none: there is no NVIDIA driver here\nnvrtc            none: none\n"
NO_NVRTC = INFO.replace("12.8 /somewhere/libnvrtc.so.12", "none: no NVRTC is here")

# Each script is a Python program; `answer` is what a test wants it to say.
FA = """
import json, sys
if sys.argv[1] == "info":
    print(ANSWER["info"])
    sys.exit()
assert sys.argv[1:4] == ["check", "--device", "cuda"]
if "--json" in sys.argv:
    report = dict(problems=2000, failures=0, worst_ratio=0.5, worst_problem="small",
                  prepare_seconds=1.5, passed=ANSWER["check"] == 0)
    with open(sys.argv[sys.argv.index("--json") + 1], "w") as file:
        json.dump(report, file)
sys.exit(ANSWER["check"])
"""
GPU_TEST = """
import json, os, sys
assert os.environ["FA_REQUIRE_GPU"] == "1"
output = [a.partition(":")[2] for a in sys.argv if a.startswith("--gtest_output=json:")]
case = lambda name, **more: dict(name=name, result="COMPLETED", time="0.5s", **more)
cases = [case("One", worst_ratio="0.25"), case("Two", worst_ratio="0.75"), case("Three")]
if ANSWER["skips"]:
    cases[2]["result"] = "SKIPPED"
if ANSWER["tests"] == 1:
    cases[0]["failures"] = [dict(failure="wrong")]
if output and ANSWER["tests"] >= 0:
    with open(output[0], "w") as file:
        json.dump(dict(testsuites=[dict(name="Suite", testsuite=cases)]), file)
sys.exit(ANSWER["tests"] if ANSWER["tests"] >= 0 else 139)
"""
SANITIZER = """
import subprocess, sys
if sys.argv[1] == "--version":
    print("NVIDIA (R) Compute Sanitizer\\nVersion 2025.1.0.0 (build 1)")
    sys.exit()
tool = sys.argv[2]
program = next(n for n, a in enumerate(sys.argv) if "/" in a and n > 0)
code = subprocess.run(sys.argv[program:], check=False).returncode
errors = ANSWER["sanitizer"] if tool == ANSWER["tool"] else 0
if ANSWER["summary"]:
    kind = "RACECHECK" if tool == "racecheck" else "ERROR"
    print(f"========= {kind} SUMMARY: {errors} errors")
sys.exit(99 if errors else code)
"""
ANSWER = dict(info=INFO, check=0, tests=0, skips=False, sanitizer=0, tool="memcheck", summary=True)


@pytest.fixture
def run(tmp_path):
    def write(name, text, answer):
        path = tmp_path / name
        path.write_text(f"#!{sys.executable}\nANSWER = {answer!r}\n{text}")
        path.chmod(0o755)

    def run_tool(*arguments, **changes):
        answer = ANSWER | changes
        write("fa", FA, answer)
        write("gpu_test", GPU_TEST, answer)
        write("compute-sanitizer", SANITIZER, answer)
        environment = os.environ | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "FA_COMMIT": "abc",
        }
        command = [sys.executable, TOOL, "--programs", tmp_path]
        command += ["--json", tmp_path / "report.json", *arguments]
        ended = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment
        )
        report = tmp_path / "report.json"
        return ended, json.loads(report.read_text()) if report.exists() else None

    return run_tool


def test_all_is_right(run):
    ended, report = run()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "gpu_test passed" in ended.stdout
    assert list(report) == ["check", "tests", "sanitizer"]
    for part in report.values():
        assert part["passed"] and part["commit"] == "abc"
        assert part["machine"]["name"].startswith("Some GPU (sm_90a)")
        assert part["versions"] == {"cuda": "12.8", "nvrtc": "12.8"}
    assert report["check"]["problems"] == 2000 and report["check"]["configurations"] == 150
    assert report["tests"]["tests"] == 3 and report["tests"]["failed"] == []
    assert report["tests"]["worst_test"] == "Suite.Two" and report["tests"]["worst_ratio"] == 0.75
    tools = [one["tool"] for one in report["sanitizer"]["runs"]]
    assert tools == ["memcheck", "memcheck", "racecheck", "synccheck"]
    assert report["sanitizer"]["version"] == "2025.1.0.0"
    assert "/somewhere" not in json.dumps(report)


def test_parts_are_chosen(run):
    ended, report = run("--only", "tests,check", "--count", "30", "--configs", "7")
    assert ended.returncode == 0
    assert list(report) == ["check", "tests"]
    assert report["check"]["configurations"] == 7
    assert "fa check --device cuda --count 30 --configs 7" in ended.stdout


def test_parts_that_do_not_run_stay_in_the_file(run):
    _, first = run()
    _, report = run("--only", "tests", tests=1)
    assert report["check"] == first["check"] and report["sanitizer"] == first["sanitizer"]
    assert first["tests"]["passed"] and not report["tests"]["passed"]


@pytest.mark.parametrize(
    "part, changes",
    [
        ("check", dict(check=1)),
        ("tests", dict(tests=1)),
        ("tests", dict(tests=-1)),  # a crash before it wrote anything
        ("tests", dict(tests=77)),
        ("sanitizer", dict(sanitizer=3)),
        ("sanitizer", dict(sanitizer=1, tool="racecheck")),
        ("sanitizer", dict(summary=False)),
    ],
)
def test_what_is_wrong_is_told(run, part, changes):
    ended, report = run("--only", part, **changes)
    assert ended.returncode == 1 and "gpu_test FAILED" in ended.stdout
    assert not report[part]["passed"]


def test_a_failed_test_is_named(run):
    _, report = run("--only", "tests", tests=1)
    assert report["tests"]["failed"] == ["Suite.One"]
    _, report = run("--only", "tests", skips=True)
    assert report["tests"]["passed"] and report["tests"]["skipped"] == ["Suite.Three"]


@pytest.mark.parametrize(
    "changes, why",
    [
        (dict(info=NO_DEVICE), "it needs a CUDA device; none: there is no NVIDIA driver here"),
        (dict(info=INFO.replace("device 0", "device x")), "it needs a CUDA device; CUDA 12.8"),
        (dict(info=NO_NVRTC), "it needs an NVRTC; none: no NVRTC is here"),
    ],
)
def test_without_what_it_needs_it_does_not_begin(run, changes, why):
    ended, report = run(**changes)
    assert ended.returncode == 2 and report is None
    assert ended.stderr == f"gpu_test: {why}\n"


@pytest.mark.parametrize(
    "arguments, why",
    [
        (["--only", "races"], "argument --only: is races; allowed are check, tests, sanitizer"),
        (["--count", "0"], "argument --count: is 0; allowed are numbers from 1 on"),
        (["--programs", "/nowhere"], "--programs: no fa in /nowhere; make build makes it"),
        (["--json", "/nowhere/report.json"], "No such file or directory: '/nowhere/"),
        (["--json", "/dev"], "/dev: is not a regular file"),
    ],
)
def test_wrong_arguments(run, arguments, why):
    ended, _ = run(*arguments)
    assert ended.returncode == 2 and why in ended.stderr
