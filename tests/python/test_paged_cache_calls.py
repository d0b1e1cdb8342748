"""Random calls of KVCache, beside a plain copy of every sequence's keys and values."""

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from flashattn import OutOfPages
from flashattn._paged_cache import _digest
from test_paged_cache import LAYERS, bits, pages_of, rows, same, small, state, step


def of(count):
    return st.lists(st.integers(0, 1), min_size=count, max_size=count)


class Machine(RuleBasedStateMachine):
    """Random calls. `tokens` are what each sequence should hold; two ids alone, and pages of two or
    three, so that many prefixes are equal."""

    sequences = Bundle("sequences")

    @initialize(page_size=st.integers(1, 3), pages=st.integers(6, 30))
    def make(self, page_size, pages):
        self.cache = small(pages, page_size)
        self.tokens = {}
        self.prefixes = {}  # of the digests

    def attempt(self, call, *arguments):
        """Whether there were pages enough."""
        before = state(self.cache)
        try:
            call(*arguments)
        except OutOfPages:
            assert same(state(self.cache), before)
            return False
        return True

    def grow(self, new, kept=None):
        """A step of sequences, which may write into their room alone."""
        batch = {s: self.tokens[s] for s in new}
        n = len(next(iter(new.values())))
        if not self.attempt(self.cache.reserve, list(batch), n):
            return False
        own = {p for s in batch for p in pages_of(self.cache, s)[len(batch[s]) // self.size :]}
        assert all(self.cache._holders[p] == 1 for p in own)
        others = [p for p in range(len(self.cache._holders)) if p not in own]
        before = [x[:, others].clone() for x in bits(self.cache)]
        step(self.cache, batch, new, kept)
        assert all(torch.equal(x[:, others], y) for x, y in zip(bits(self.cache), before))
        for b, (s, tokens) in enumerate(new.items()):
            self.tokens[s] = [*self.tokens[s], *tokens[: n if kept is None else kept[b]]]
            digest = b""
            for end in range(self.size, len(self.tokens[s]) + 1, self.size):
                digest = _digest(digest, self.tokens[s][end - self.size : end])
                self.prefixes[digest] = self.tokens[s][:end]
        return True

    @property
    def size(self):
        return self.cache.page_size

    @rule(target=sequences, tokens=st.integers(0, 8).flatmap(of))
    def add(self, tokens):
        s = self.cache.add(tokens)
        have = self.cache.length(s)
        assert have % self.size == 0 and have < max(1, len(tokens))
        self.tokens[s] = tokens[:have]
        if have < len(tokens):
            self.grow({s: tokens[have:]})
        return s

    @precondition(lambda self: self.tokens)
    @rule(
        places=st.lists(st.integers(0, 7), min_size=1, max_size=4),
        new=st.integers(1, 4).flatmap(lambda n: st.lists(of(n), min_size=4, max_size=4)),
        kept=st.none() | st.lists(st.integers(0, 4), min_size=4, max_size=4),
    )
    def append(self, places, new, kept):
        chosen = {list(self.tokens)[place % len(self.tokens)]: None for place in places}
        kept = kept and [min(n, len(new[0])) for n in kept[: len(chosen)]]
        self.grow(dict(zip(chosen, new)), kept)

    @rule(s=sequences, n=st.integers(0, 5))
    def reserve(self, s, n):
        self.attempt(self.cache.reserve, [s], n)

    @rule(target=sequences, s=sequences, count=st.integers(1, 3))
    def fork(self, s, count):
        forks = [self.cache.fork(s) for _ in range(count)]
        self.tokens.update(dict.fromkeys(forks, self.tokens[s]))
        return multiple(*forks)

    @rule(s=sequences, count=st.integers(0, 6))
    def truncate(self, s, count):
        left = max(0, len(self.tokens[s]) - count)
        self.cache.truncate(s, len(self.tokens[s]) - left)
        self.tokens[s] = self.tokens[s][:left]

    @rule(target=sequences, s=consumes(sequences))
    def free(self, s):
        self.cache.free(s)
        del self.tokens[s]
        return multiple()

    @invariant()
    def pages_are_counted(self):
        cache, size = self.cache, self.size
        assert set(cache._sequences) == set(self.tokens)
        holders = [0] * len(cache._holders)
        for number, s in cache._sequences.items():
            assert s.length == len(self.tokens[number]) == cache.length(number)
            assert len(s.pages) == -(-(s.length + s.room) // size)
            assert len(set(s.pages)) == len(s.pages)
            assert s.tokens == self.tokens[number][: len(s.tokens)]
            for page in s.pages:
                holders[page] += 1
        assert holders == cache._holders
        free = [*cache._empty, *cache._idle]
        assert sorted(free) == [p for p, n in enumerate(holders) if n == 0]
        assert cache.free_pages == len(free)
        found = set(cache._found.values())
        assert len(found) == len(cache._found) and set(cache._idle) == found & set(free)
        assert all(cache._digests[page] == digest for digest, page in cache._found.items())
        for s in cache._sequences.values():
            if s.room > 0:
                room = s.pages[s.length // size :]
                assert all(holders[p] == 1 and p not in found for p in room)

    @invariant()
    def nobody_wrote_into_a_sequence(self):
        """Every row is what was written; all rows that nobody counts are NaN from here on."""
        cache, size = self.cache, self.size
        counted = torch.zeros(cache.k.shape[1:3], dtype=torch.bool)
        held = [(t, 0, cache._sequences[s].pages) for s, t in self.tokens.items() if t]
        for digest, page in cache._found.items():
            tokens = self.prefixes[digest]
            held.append((tokens, len(tokens) - size, [page]))
        for tokens, first, pages in held:
            at = [pages[j // size] for j in range(len(tokens) - first)]
            row = [j % size for j in range(len(tokens) - first)]
            counted[at, row] = True
            for layer in range(LAYERS):
                for cached, expected in zip((cache.k, cache.v), rows(tokens, first, layer)):
                    assert torch.equal(cached[layer, at, row], expected)
        for pages in (cache.k, cache.v):
            pages[:, ~counted] = torch.nan


Machine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
test_random_calls = Machine.TestCase
