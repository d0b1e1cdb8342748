"""How long calls take: contenders interleaved, round by round in shuffled order."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from cells import LIMITS, Cell, Inputs, error, exact_head, make_inputs
from contenders import OURS, Call, Contender

SHORTEST = 2e-3  # seconds that one measurement takes at least on the CPU
GEMM = "GEMM 8192"  # the same GPU's bfloat16 product, in the same rounds


def cpu_timer(call: Call, first: float) -> Callable[[], float]:
    """Seconds of one call, by repeating it for SHORTEST at least. `first` is what its first call
    took, which was the slowest: a short one is timed again."""
    if first < 100 * SHORTEST:
        begin = time.perf_counter()
        call()
        first = time.perf_counter() - begin
    repeats = max(1, round(SHORTEST / first))

    def measure() -> float:
        begin = time.perf_counter()
        for _ in range(repeats):
            call()
        return (time.perf_counter() - begin) / repeats

    return measure


def cuda_timer(make: Callable[[], Call]) -> Callable[[], float]:
    """Device seconds of one call: captured in a graph, the L2 flushed before each replay. The call
    is made on the stream that captures, where a backward pass's graph must come from."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        call = make()
        for _ in range(3):
            call()
    stream.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        call()
    flush = torch.empty(256 << 20, dtype=torch.int8, device="cuda")
    events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def measure() -> float:
        flush.zero_()
        events[0].record()
        graph.replay()
        events[1].record()
        events[1].synchronize()
        return events[0].elapsed_time(events[1]) / 1e3

    return measure


def gemm_timer() -> Callable[[], float]:
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return cuda_timer(lambda: lambda: torch.mm(a, a))


class Measurement:
    """One cell: every contender's error, and its seconds in every round."""

    def __init__(self, cell: Cell, device: str, everybody: list[Contender]):
        self.cell = cell
        self.errors: dict[str, float] = {}
        self.failures: dict[str, str] = {}
        self.seconds: dict[str, list[float]] = {}
        self._timers: dict[str, tuple[Contender, Callable[[], float]]] = {}
        self._first: dict[str, float] = {}
        inputs = make_inputs(cell, device)
        exact = exact_head(cell, inputs)
        for contender in everybody:
            if contender.takes(cell):
                self._admit(contender, inputs, exact, device)

    def _admit(
        self, contender: Contender, inputs: Inputs, exact: dict[str, torch.Tensor], device: str
    ) -> None:
        """Only right results are timed. The first call's time is kept: where one call takes longer
        than a cell's seconds it is the only one."""
        name, cell = contender.name, self.cell
        try:
            with contender.context():
                call = contender.call(cell, inputs)
                begin = time.perf_counter()
                returned = call()
                if device == "cuda":
                    torch.cuda.synchronize()
                first = time.perf_counter() - begin
                self.errors[name] = error(contender.results(cell, returned), exact)
                if self.errors[name] > LIMITS[cell.dtype]:
                    self.failures[name] = f"error {self.errors[name]:.2e}: wrong"
                    return
                if device == "cuda":
                    timer = cuda_timer(lambda: contender.call(cell, inputs))
                else:
                    timer = cpu_timer(call, first)
        except RuntimeError as refusal:
            self.failures[name] = str(refusal).splitlines()[0]
            return
        self._timers[name] = (contender, timer)
        self._first[name] = first

    def run(self, rounds: int, budget: float, extra: dict[str, Callable[[], float]]) -> None:
        """`rounds` rounds, or as many (3 at least) as `budget` seconds allow."""
        slow = {name for name in self._timers if self._first[name] > budget}
        self.seconds = {name: [self._first[name]] if name in slow else [] for name in self._timers}
        order = [name for name in self._timers if name not in slow] + list(extra)
        self.seconds.update({name: [] for name in extra})
        begin = time.perf_counter()
        for number in range(rounds):
            if number >= 3 and time.perf_counter() - begin > budget:
                return
            random.shuffle(order)
            for name in order:
                self.seconds[name].append(self._once(name, extra))

    def _once(self, name: str, extra: dict[str, Callable[[], float]]) -> float:
        if name in extra:
            return extra[name]()
        contender, timer = self._timers[name]
        with contender.context(), torch.set_grad_enabled(self.cell.work == "backward"):
            return timer()

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratios(self) -> dict[str, float]:
        """By how much we are faster than each peer: the median over the rounds of its seconds by
        ours; where it was timed once, by our median."""
        if not self.seconds.get(OURS):
            return {}
        result = {}
        for name, theirs in self.seconds.items():
            if name not in (OURS, GEMM):
                ours = self.seconds[OURS]
                if len(theirs) != len(ours):
                    ours = [self.median(OURS)] * len(theirs)
                result[name] = statistics.median(a / b for a, b in zip(theirs, ours))
        return result

    def record(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            **vars(self.cell),
            "seconds": self.seconds,
            "errors": self.errors,
            "failures": self.failures,
            "ratios": self.ratios(),
        }
