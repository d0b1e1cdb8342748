"""How a call is timed: by the host's clock, or on the device itself as a captured CUDA graph."""

import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from calls import Call

Timed = tuple[float, Any]  # seconds of one call, its result
GEMM = 8192  # the GPU's own mark in the same rounds: a product of square bfloat16 matrices
GEMM_FLOPS = 2.0 * GEMM**3
FLUSH_BYTES = 256 << 20  # several times the largest L2; long enough to hide a graph's launch
WARM_UP = 3  # calls before the capture: kernels are compiled and chosen there


class HostClock:
    """Wall time of one call, or the mean of `repeats`, without waiting for a device in between."""

    def __init__(self, repeats: int = 1) -> None:
        self.repeats = repeats
        self.companions: dict[str, Callable[[], Timed]] = {}  # timed in the same rounds

    def prepare(self, new_call: Callable[[], Call]) -> Call:
        return new_call()

    def time(self, call: Call) -> Timed:
        if torch.cuda.is_initialized():  # what it still does would delay these calls
            torch.cuda.synchronize()
        begin = time.perf_counter()
        for _ in range(self.repeats):
            result = call()
        return (time.perf_counter() - begin) / self.repeats, result


class Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    result: Any
    call: Call  # owns the tensors that the graph reads


class DeviceClock:
    """Device time of one call with a cold L2: events around the replay of its graph, no more."""

    repeats = 1

    def __init__(self) -> None:
        self._flushed = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
        gemm = self.prepare(_new_gemm)
        self.companions = {"gemm": lambda: self.time(gemm)}

    def prepare(self, new_call: Callable[[], Call]) -> Captured:
        # A backward runs on its forward's stream: new_call must run on the one that captures.
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            call = new_call()
            for _ in range(WARM_UP):
                call()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            result = call()
        return Captured(graph, result, call)

    def time(self, captured: Captured) -> Timed:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._flushed.zero_()
        begin.record()
        captured.graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3, captured.result


def shuffled_rounds(timers: dict[str, Callable[[], float]], count: int) -> list[dict[str, float]]:
    """Seconds of each timer, round by round; the order within a round is drawn anew."""
    order, generator, rounds = list(timers), random.Random(1), []
    for _ in range(count):
        generator.shuffle(order)
        found = {name: timers[name]() for name in order}
        rounds.append({name: found[name] for name in timers})
    return rounds


def _new_gemm() -> Call:
    a, b, c = (torch.randn(GEMM, GEMM, dtype=torch.bfloat16, device="cuda") for _ in range(3))
    return lambda: torch.mm(a, b, out=c)
