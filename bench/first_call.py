#!/usr/bin/env python3
"""How long the first call on a CUDA GPU takes, whose kernels are yet to be compiled.

Each call is the first of a process of its own, with an empty cache of kernels: flash_attn_func on
[1, 1024, 4, head_dim], bfloat16, without gradients, waited for. The process has imported PyTorch
and flashattn and has used the device before; the call loads the CUDA driver and NVRTC.

  bench/first_call.py --json first-call.json"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from statistics import median

import machine
from gpu_flags import checked

CALL = """
import sys, time, torch
head_dim, causal = int(sys.argv[1]), sys.argv[2] == "causal"
q = torch.randn(1, 1024, 4, head_dim, dtype=torch.bfloat16, device="cuda")
torch.cuda.synchronize()
import flashattn
begin = time.perf_counter()
with torch.no_grad():
    flashattn.flash_attn_func(q, q, q, causal=causal)
torch.cuda.synchronize()
print(time.perf_counter() - begin)
"""


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="calls of each problem (3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="every call")
    return checked(parser, arguments, ["rounds"])


def seconds_of(head_dim: int, mask: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", CALL, str(head_dim), mask],
            env=os.environ | {"FA_CACHE_DIR": folder},
            text=True,
            capture_output=True,
            check=False,
        )
    if done.returncode != 0:
        sys.exit(f"{done.stdout}{done.stderr}".rstrip())
    return float(done.stdout)


def main() -> None:
    options = parse(sys.argv[1:])
    result = {
        "machine": machine.describe("cuda"),
        "versions": machine.versions([]),
        "commit": machine.commit(),
        "seconds": {},
    }
    problems = list(product((64, 128, 256), ("causal", "full")))
    for _ in range(options.rounds):
        for head_dim, mask in problems:
            name = f"head_dim {head_dim}, {mask}"
            result["seconds"].setdefault(name, []).append(round(seconds_of(head_dim, mask), 3))
    for name, seconds in result["seconds"].items():
        print(f"{name:24}{median(seconds):.2f} s")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
