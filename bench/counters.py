#!/usr/bin/env python3
"""What the GPU's counters say of the forward kernels for Hopper, by Nsight Compute (ncu).

Each problem runs once under ncu, at the clocks as they are: 16k tokens in all, hidden 2048, and
bfloat16 unless it names another. Besides, plain problems and the product of two square matrices
run for 1.6 seconds each while nvidia-smi reads the clock and the power. Results are not checked
here: the tests do that.

  bench/counters.py --json counters.json"""

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import machine
import torch
from cells import packed_lengths
from outputs import why_not

import flashattn

TOKENS, HIDDEN = 16384, 2048
KERNEL = "fa_sm90_forward"
METRICS = {  # of ncu, by our name; percent but for the first and the last
    "microseconds": "gpu__time_duration.sum",
    "tensor cores": "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed",
    "tensor cores while a block runs": (
        "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active"
    ),
    "special-function unit": "sm__inst_executed_pipe_xu.avg.pct_of_peak_sustained_active",
    "integers and logic": "sm__pipe_alu_cycles_active.avg.pct_of_peak_sustained_active",
    "multiply-adds": "sm__pipe_fma_cycles_active.avg.pct_of_peak_sustained_active",
    "instructions issued": "smsp__issue_active.avg.pct_of_peak_sustained_active",
    "L2 hits of reads": "lts__t_sector_op_read_hit_rate.pct",
    "MHz": "smsp__cycles_elapsed.avg.per_second",
}
SCALES = {"microseconds": 1e-3, "MHz": 1e-6}
STALL = "smsp__average_warps_issue_stalled_", "_per_issue_active.ratio"
# name: head_dim, keys, causal, more of flash_attn_func's keywords
PROBLEMS = {
    "128 causal, 4k": (128, 4096, True, {}),
    "256 causal, 4k": (256, 4096, True, {}),
    "128, 4k": (128, 4096, False, {}),
    "256, 16k": (256, 16384, False, {}),
    "256 causal, 16k": (256, 16384, True, {}),
    "64 causal, 8k": (64, 8192, True, {}),
    "128 causal, 8k": (128, 8192, True, {}),
    "128 causal, 8k, float16": (128, 8192, True, {"dtype": torch.float16}),
    "128 packed": (128, 0, False, {}),
    "128 packed, causal": (128, 0, True, {}),
    "64 softcap": (64, 8192, True, {"softcap": 30.0}),
    "128 softcap": (128, 8192, True, {"softcap": 30.0}),
    "64 ALiBi": (64, 8192, True, {"alibi_slopes": True}),
    "64 dropout": (64, 8192, True, {"dropout_p": 0.1}),
    "128 dropout": (128, 8192, True, {"dropout_p": 0.1}),
    "256 dropout": (256, 8192, True, {"dropout_p": 0.1}),
    "64 bias of each head": (64, 8192, True, {"bias": True}),
    "128 bias of each head": (128, 8192, True, {"bias": True}),
    "128 window 1024, 16k": (128, 16384, True, {"window_size": (1024, 0)}),
    "64 window 1024, 16k": (64, 16384, True, {"window_size": (1024, 0)}),
}
LONG = (
    "128 causal, 4k",
    "256 causal, 4k",
    "128, 4k",
    "256, 16k",
    "256 causal, 16k",
    "128 causal, 8k",
    "128 causal, 8k, float16",
    "128 packed, causal",
)
GEMM = "8192^3 product"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--from", dest="source", type=Path, help="an output of ncu; time nothing")
    parser.add_argument("--run", action="store_true", help="each problem once: what ncu looks at")
    options = parser.parse_args(arguments)
    if options.json and (problem := why_not(options.json)):
        parser.error(f"--json: {problem}")
    if options.source and not options.source.is_file():
        parser.error(f"--from: there is no file {options.source}")
    if not options.source and not torch.cuda.is_available():
        parser.error("this PyTorch finds no CUDA device")
    return options


def new_call(name: str) -> Callable:
    head_dim, seqlen, causal, options = PROBLEMS[name]
    heads, more = HIDDEN // head_dim, dict(options)
    dtype = more.pop("dtype", torch.bfloat16)

    def tensors(*shape: int) -> list[torch.Tensor]:
        return [torch.randn(shape, dtype=dtype, device="cuda") for _ in range(3)]

    if seqlen == 0:
        lengths = torch.tensor(packed_lengths(64))
        q, k, v = tensors(int(lengths.sum()), heads, head_dim)
        begins = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to("cuda", torch.int32)
        longest = int(lengths.max())
        return lambda: flashattn.flash_attn_varlen_func(
            q, k, v, begins, begins, longest, longest, causal=causal
        )
    q, k, v = tensors(TOKENS // seqlen, seqlen, heads, head_dim)
    if "bias" in more:
        more["bias"] = torch.randn(1, heads, seqlen, seqlen, dtype=q.dtype, device="cuda")
    if "alibi_slopes" in more:
        more["alibi_slopes"] = torch.linspace(0.01, 0.5, heads, device="cuda")
    return lambda: flashattn.flash_attn_func(q, k, v, causal=causal, **more)


def run_all() -> None:
    for name in PROBLEMS:
        new_call(name)()
        torch.cuda.synchronize()


def profiled() -> str:
    metrics = [*METRICS.values(), f"regex:{STALL[0]}.*{STALL[1]}"]
    command = ["ncu", "--clock-control", "none", "-k", f"regex:{KERNEL}", "--csv", "--page", "raw"]
    command += ["--metrics", ",".join(metrics), sys.executable, __file__, "--run"]
    done = subprocess.run(command, text=True, capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{done.stdout}{done.stderr}".rstrip())
    return done.stdout


def counters(text: str) -> dict[str, dict]:
    """By problem: the metrics, and of all warps' time the shares of the longest waits."""
    lines = list(csv.reader(line for line in text.splitlines() if line.startswith('"')))
    seen = max(len(lines) - 2, 0)  # names and units come first
    if seen != len(PROBLEMS):
        sys.exit(f"ncu saw {seen} kernels; {len(PROBLEMS)} are measured")
    found = {}
    for name, line in zip(PROBLEMS, lines[2:], strict=True):
        row = dict(zip(lines[0], line, strict=True))

        def number(metric: str, row: dict = row) -> float:
            return float(row[metric].replace(",", ""))

        figures = {key: number(metric) * SCALES.get(key, 1) for key, metric in METRICS.items()}
        stalls = {
            metric.removeprefix(STALL[0]).removesuffix(STALL[1]): number(metric)
            for metric in row
            if metric.startswith(STALL[0]) and metric.endswith(STALL[1])
        }
        total = sum(stalls.values())
        longest = sorted(stalls, key=stalls.__getitem__, reverse=True)[:6]
        figures = {key: round(figure, 1) for key, figure in figures.items()}
        waits = {wait: round(100 * stalls[wait] / total, 1) for wait in longest}
        found[name] = figures | {"waits": waits}
    return found


def clocks() -> dict[str, dict]:
    square = torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda")
    query = "--query-gpu=clocks.sm,power.draw.instant"
    found = {}
    for name in [GEMM, *LONG]:
        call = (lambda: torch.mm(square, square)) if name == GEMM else new_call(name)
        call()
        torch.cuda.synchronize()
        command = ["nvidia-smi", query, "--format=csv,noheader,nounits", "-lms", "60"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as smi:
            end = time.monotonic() + 1.6
            while time.monotonic() < end:
                for _ in range(5):
                    call()
                torch.cuda.synchronize()
            smi.terminate()
            samples = [line.split(", ") for line in smi.communicate()[0].splitlines()]
        late = samples[len(samples) // 2 :]
        found[name] = {
            unit: median(float(sample[n]) for sample in late) for n, unit in enumerate(["MHz", "W"])
        }
    return found


def main() -> None:
    options = parse(sys.argv[1:])
    if options.run:
        run_all()
        return
    result = {}
    if options.source:
        result["counters"] = counters(options.source.read_text())
    else:
        result = {"machine": machine.describe("cuda"), "commit": machine.commit()}
        result |= {"clocks": clocks(), "counters": counters(profiled())}
    for name, figures in result["counters"].items():
        print(f"{name:24}{json.dumps(figures)}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
