"""What the benchmarks that need a CUDA GPU ask of their flags."""

import argparse
from collections.abc import Sequence

import torch
from outputs import why_not


def checked(
    parser: argparse.ArgumentParser, arguments: Sequence[str], counts: Sequence[str]
) -> argparse.Namespace:
    """The flags, of which `counts` are at least 1. Ends the program where one is wrong, where
    --json cannot be written, or where there is no device."""
    options = parser.parse_args(arguments)
    for name in counts:
        if (number := getattr(options, name)) < 1:
            parser.error(f"--{name}: is {number}; allowed are numbers from 1 on")
    if options.json and (problem := why_not(options.json)):
        parser.error(f"--json: {problem}")
    if not torch.cuda.is_available():
        parser.error("this PyTorch finds no CUDA device")
    return options
