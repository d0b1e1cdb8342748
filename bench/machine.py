"""Where the numbers come from: device, driver, versions, commit."""

import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess
from collections.abc import Iterable

import torch


def describe(device: str) -> dict:
    if device == "cuda":
        return {
            "name": torch.cuda.get_device_name(),
            "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        }
    return {
        "name": _cpu_model(),
        "driver": None,
        "threads": torch.get_num_threads(),
        "last_level_cache_bytes": last_level_cache(),
        "openmp": _openmp_runtimes(),
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in sorted({"torch", "flashattn", *packages}):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a peer that is only on the path
            found[package] = "unknown"
    if torch.backends.cudnn.is_available():
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found


def commit() -> str:
    """Of the checkout that this file lies in, with "-dirty" where it was changed; FA_COMMIT where
    it was copied without its history."""
    if given := os.environ.get("FA_COMMIT"):
        return given
    here = pathlib.Path(__file__).parent
    describe_head = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    return _output("git", "-C", str(here), *describe_head)


@functools.cache
def last_level_cache() -> int:
    """Bytes of the largest cache; 32 MiB if not told."""
    sizes = pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((_cache_bytes(file.read_text()) for file in sizes), default=32 << 20)


def _cache_bytes(text: str) -> int:
    """Of "32768K"."""
    unit = {"K": 10, "M": 20}[text.strip()[-1]]
    return int(text.strip()[:-1]) << unit


def _cpu_model() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def _openmp_runtimes() -> list[str]:
    """Those in this process: one, torch's, which the library takes over. The threads of two would
    wait, spinning, on each other's cores."""
    lines = pathlib.Path("/proc/self/maps").read_text().splitlines()
    paths = {line.split()[-1] for line in lines if "libgomp" in line or "libiomp" in line}
    return sorted(pathlib.Path(path).name for path in paths)


def _output(*command: str) -> str:
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return run.stdout.strip().partition("\n")[0]
