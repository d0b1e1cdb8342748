#!/usr/bin/env python3
"""Draws time and memory against sequence length from `fa demo --json FILE`.

    build/fa demo --json bench/results/demo.json
    tools/plot_growth.py bench/results/demo.json docs/images/growth.png

Needs matplotlib.
"""

import json
import sys
from collections.abc import Callable

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

SERIES = {
    "this library, forward": ("forward", "tab:blue", "o-"),
    "this library, backward": ("backward", "tab:blue", "s--"),
    "plain formula, forward": ("plain_forward", "tab:red", "o-"),
    "plain formula, backward": ("plain_backward", "tab:red", "s--"),
}


def milliseconds(cost: dict) -> float | None:
    """None where it was too large to run."""
    return None if cost["seconds"] is None else 1e3 * cost["seconds"]


def megabytes(cost: dict) -> float:
    """Measured where it ran, else counted."""
    measured = cost["measured_bytes"]
    return (cost["told_bytes"] if measured is None else measured) / 1e6


def draw(axes: Axes, rows: list[dict], figure: Callable, unit: str) -> None:
    for label, (cost, color, style) in SERIES.items():
        points = [(row["seqlen"], figure(row[cost])) for row in rows]
        axes.plot(*zip(*(p for p in points if p[1] is not None)), style, color=color, label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("sequence length")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3)


def main(source: str, target: str) -> None:
    with open(source) as file:
        result = json.load(file)
    picture, (time, memory) = plt.subplots(1, 2, figsize=(10, 4))
    draw(time, result["growth"], milliseconds, "time, ms")
    draw(memory, result["growth"], megabytes, "memory beyond inputs and outputs, MB")
    time.legend(fontsize=8)
    picture.suptitle("Causal attention, 4 heads of 64, float32", fontsize=11)
    picture.tight_layout()
    picture.savefig(target, dpi=120)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
