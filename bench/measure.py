"""One cell: every contender's result is checked, then all are timed round by round."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from calls import Inputs, new_call, new_inputs, rotations
from cells import Cell
from clocks import DeviceClock, HostClock, Timed
from contenders import OURS, Contender
from exact import Sample, errors, exact, is_right
from report import OURS_TOO

Timer = Callable[[], Timed]
Round = dict[str, float]  # seconds of one call of each


@dataclass(frozen=True)
class Limits:
    rounds: int  # of a cell, where the seconds allow
    seconds: float  # of a cell's rounds, about; one round there always is
    bound: float  # a cell in which the ratio to some peer is under it is measured once more


class LeftOut(Exception):
    """Why a contender does not take part in a cell."""


class Bench:
    def __init__(
        self,
        device: str,
        contenders: list[Contender],
        clock: HostClock | DeviceClock,
        limits: Limits,
    ) -> None:
        self._device = device
        self._contenders = contenders
        self._clock = clock
        self._limits = limits
        self._random = random.Random(1)
        # The first gradient of a process makes PyTorch import sympy: half a second to two, which
        # would be the first contender's.
        one = torch.ones(1, requires_grad=True)
        torch.autograd.grad(one * 1, one, torch.ones(1))

    def measure(self, cell: Cell) -> dict:
        """The cell as the JSON holds it."""
        timers, first, record = self._checked(cell)
        record |= {"measurements": 1, "rounds": [], "ratios": {}}
        if not timers:
            return record
        seconds = sum(first.values()) * self._clock.repeats
        count = min(self._limits.rounds, int(self._limits.seconds / seconds))
        # Where one round takes all of the cell's seconds, the first calls are the round: so long a
        # call does not hang on a warm-up.
        rounds = [self._round(timers) for _ in range(count)] or [first]
        of_peers = (ratio for name, ratio in ratios(rounds).items() if name not in OURS_TOO)
        if any(ratio < self._limits.bound for ratio in of_peers):
            record["measurements"] = 2
            rounds += [self._round(timers) for _ in range(max(1, count))]
        return record | {"rounds": rounds, "ratios": ratios(rounds)}

    def _checked(self, cell: Cell) -> tuple[dict[str, Timer], Round, dict]:
        """Timers of those whose result is right, how long their first call took, and what is to be
        told of the others."""
        inputs = new_inputs(cell, self._device)
        sample = self._sample(cell)
        expected = {cell: exact(cell, inputs, sample)}
        timers, first = {}, {}
        record = {**cell.as_json(), "errors": {}, "wrong": [], "left_out": {}}
        if cell.work == "decode":
            record["rotation_bytes"] = rotations(cell) * cell.key_bytes
        for contender in self._contenders:
            if not contender.takes_part(cell):
                continue
            name, solved = contender.name, contender.solves(cell)
            try:
                timer, seconds, result = self._first_call(contender, cell, inputs)
            except LeftOut as reason:
                record["left_out"][name] = str(reason)
                continue
            if solved not in expected:
                expected[solved] = exact(solved, inputs, sample)
            record["errors"][name] = errors(contender, result, expected[solved], sample)
            if is_right(cell, record["errors"][name]):
                timers[name], first[name] = timer, seconds
            else:
                record["wrong"].append(name)
        return timers, first, record

    def _first_call(
        self, contender: Contender, cell: Cell, inputs: Inputs
    ) -> tuple[Timer, float, Any]:
        """Its timer, and the seconds and the result of one call."""
        reason = contender.lack(cell)
        if reason is not None:
            raise LeftOut(reason)
        try:
            timer = self._new_timer(contender, cell, inputs)
            return timer, *timer()
        except contender.refusals as error:
            raise LeftOut(str(error).partition("\n")[0] or type(error).__name__) from error

    def _sample(self, cell: Cell) -> Sample:
        key_head, group = self._random.randrange(cell.heads_k), cell.heads_q // cell.heads_k
        if not cell.lengths:
            return Sample(self._random.randrange(cell.batch), key_head, group)
        # A long sequence rather than a short one: each token is as likely.
        (sequence,) = self._random.choices(range(len(cell.lengths)), cell.lengths)
        begin = sum(cell.lengths[:sequence])
        rows = slice(begin, begin + cell.lengths[sequence])
        return Sample(sequence, key_head, group, rows)

    def _new_timer(self, contender: Contender, cell: Cell, inputs: Inputs) -> Timer:
        with _surroundings(contender, cell):
            prepared = self._clock.prepare(lambda: new_call(contender, cell, inputs))

        def timer() -> Timed:
            with _surroundings(contender, cell):
                return self._clock.time(prepared)

        return timer

    def _round(self, timers: dict[str, Timer]) -> Round:
        """In shuffled order: who comes after a slow one finds a cooler, faster chip."""
        names = [*timers, *self._clock.companions]
        all_timers = timers | self._clock.companions
        return {name: all_timers[name]()[0] for name in self._random.sample(names, len(names))}


@contextmanager
def _surroundings(contender: Contender, cell: Cell) -> Iterator[None]:
    """What holds during a call and is not timed with it."""
    with contender.pinned(), torch.set_grad_enabled(cell.needs_gradients):
        yield


def ratios(rounds: list[Round]) -> dict[str, float]:
    """How many times as long each peer takes as we do: the median over the rounds."""
    peers = [name for name in rounds[0] if name not in (OURS, "gemm")]
    if OURS not in rounds[0]:
        return {}
    return {peer: median(r[peer] / r[OURS] for r in rounds) for peer in peers}
