"""KVCache: what each call does, beside attention over a plain copy of the keys and values."""

import functools
import hashlib

import numpy as np
import pytest
import torch

import flashattn
from flashattn import KVCache, OutOfPages, flash_attn_varlen_func, flash_attn_with_kvcache
from reference import attention, close
from test_flash_attn import normal

LAYERS, HEADS, DIM, DIM_V = 2, 2, 8, 16


def small(pages=8, page_size=4):
    """A cache full of NaN, which attention must not read."""
    cache = KVCache(LAYERS, pages, page_size, HEADS, DIM, head_dim_v=DIM_V)
    cache.k.fill_(torch.nan)
    cache.v.fill_(torch.nan)
    return cache


@functools.cache
def keys_and_values(prefix, layer):
    """The last token's k [heads, DIM] and v, which depend on all tokens before, as a model's do."""
    seed = hashlib.sha256(f"{layer} {prefix}".encode()).digest()[:6]
    return normal(HEADS, DIM + DIM_V, seed=int.from_bytes(seed, "little")).split([DIM, DIM_V], 1)


def rows(tokens, first, layer):
    """k [n, heads, DIM] and v of tokens[first:]."""
    each = [keys_and_values(tuple(tokens[: j + 1]), layer) for j in range(first, len(tokens))]
    return tuple(torch.stack(x) for x in zip(*each))


def step(cache, batch, new, counts=None):
    """One step of sequences {number: tokens}, which get `new` tokens each; reserves, attends and
    compares in all layers, and advances by `counts`, or by all and tells the ids."""
    sequences, grown = list(batch), [[*batch[s], *new[s]] for s in batch]
    n = len(grown[0]) - len(batch[sequences[0]])
    cache.reserve(sequences, n)
    table, used = cache.block_table(sequences), cache.cache_seqlens(sequences)
    assert table.dtype == used.dtype == torch.int32
    assert used.tolist() == [len(tokens) for tokens in batch.values()]
    for layer in range(LAYERS):
        q = normal(len(batch), n, 2 * HEADS, DIM, seed=layer)
        told = zip(*(rows(tokens, len(tokens) - n, layer) for tokens in grown))
        k, v = (torch.stack(x) for x in told)
        pages = cache.k[layer], cache.v[layer]
        more = dict(cache_seqlens=used, block_table=table, causal=True)
        out = flash_attn_with_kvcache(q, *pages, k, v, **more)
        for b, tokens in enumerate(grown):
            exact, _ = attention(q[[b]], *(x[None] for x in rows(tokens, 0, layer)), causal=True)
            close(out[b], exact[0], torch.float32)
    if counts is None:
        cache.advance(sequences, n, [tokens[len(tokens) - n :] for tokens in grown])
    else:
        cache.advance(sequences, counts)


def begun(cache, tokens):
    """A sequence of these tokens, computed as far as they were not in the cache."""
    s = cache.add(tokens)
    have = cache.length(s)
    if have < len(tokens):
        step(cache, {s: tokens[:have]}, {s: tokens[have:]})
    return s


def pages_of(cache, s):
    return cache.block_table([s])[0].tolist()


def state(cache):
    """All that a failed call must leave as it is."""
    sequences = {n: (list(s.pages), s.length, s.room) for n, s in cache._sequences.items()}
    lists = (list(cache._holders), list(cache._empty), list(cache._idle), dict(cache._found))
    return sequences, lists, list(cache._digests), *(x.clone() for x in bits(cache))


def bits(cache):
    return cache.k.view(torch.int32), cache.v.view(torch.int32)


def same(a, b):
    return a[:3] == b[:3] and all(torch.equal(x, y) for x, y in zip(a[3:], b[3:]))


def test_a_prefix_is_shared():
    cache = small(page_size=4)
    tokens = list(range(10))
    first = begun(cache, tokens)
    second = cache.add(torch.tensor([*tokens[:9], 77]))
    assert cache.length(second) == 8 and pages_of(cache, second) == pages_of(cache, first)[:2]
    assert cache.free_pages == 5
    step(cache, {second: tokens[:8]}, {second: [8, 77]})
    for others in ([99, *tokens[1:]], tokens[4:], []):  # the same page of tokens behind others
        assert cache.length(cache.add(others)) == 0
    assert cache.length(cache.add(tokens[:8])) == 4  # the last token is left to be computed
    assert cache.length(cache.add(tokens[:9])) == 8
    step(cache, {second: [*tokens[:9], 77]}, {second: [66, 55]})  # a third page behind the shared
    assert cache.length(cache.add([*tokens[:9], 77, 66, 55, 44])) == 12


def test_tokens_that_are_not_told_are_not_found():
    cache = small(page_size=2)
    s = cache.add()
    step(cache, {s: []}, {s: [1, 2, 3]})
    step(cache, {s: [1, 2, 3]}, {s: [4]}, counts=1)
    step(cache, {s: [1, 2, 3, 4]}, {s: [5, 6]})
    assert cache.length(cache.add([1, 2, 3, 4, 5, 6, 7])) == 2
    cache.truncate(s, 3)
    step(cache, {s: [1, 2, 3]}, {s: [8, 9]})  # known again from here on
    assert cache.length(cache.add([1, 2, 3, 8, 9, 9])) == 4


@pytest.mark.parametrize(
    ("taken", "of_young", "of_old"), [(4, 4, 4), (6, 4, 2), (8, 2, 2), (10, 0, 2), (12, 0, 0)]
)
def test_freed_pages_are_found_until_they_are_needed(taken, of_young, of_old):
    """Two pages that cannot be found go first, then [3, 4], [8, 9], [6, 7], [1, 2]: the last that
    a sequence freed, and [1, 2] was in use again."""
    cache = small(pages=6, page_size=2)
    old, young = begun(cache, [1, 2, 3, 4, 5]), begun(cache, [6, 7, 8, 9])
    cache.free(old)
    cache.free(young)
    again = begun(cache, [1, 2, 3])
    assert cache.free_pages == 4
    cache.free(again)
    cache.reserve([cache.add()], taken)
    assert cache.length(cache.add([6, 7, 8, 9, 9])) == of_young
    assert cache.length(cache.add([1, 2, 3, 4, 5])) == of_old


def test_of_equal_pages_one_stays():
    cache = small(pages=4, page_size=2)
    first, second = cache.add([1, 2, 3]), cache.add([1, 2, 3])
    step(cache, {first: [], second: []}, {first: [1, 2, 3], second: [1, 2, 3]})
    cache.free(first)
    cache.truncate(second, 1)
    third = cache.add()
    cache.reserve([third], 6)  # takes the page of the first, which was found
    assert cache.length(cache.add([1, 2, 3])) == 0
    cache.free(second)  # an equal page that nobody finds is found once it is free
    assert cache.length(cache.add([1, 2, 3])) == 2


def test_a_fork_copies_the_last_page_when_one_of_the_two_goes_on():
    cache = small(page_size=4)
    s = begun(cache, [1, 2, 3, 4, 5])
    forks = {s: [1, 2, 3, 4, 5], **{cache.fork(s): [1, 2, 3, 4, 5] for _ in range(2)}}
    assert cache.free_pages == 6
    assert len({tuple(pages_of(cache, f)) for f in forks}) == 1
    step(cache, forks, {f: [f] for f in forks})
    assert cache.free_pages == 4  # two copies for three
    assert len({pages_of(cache, f)[0] for f in forks}) == 1
    assert len({pages_of(cache, f)[1] for f in forks}) == 3
    step(cache, {f: [*t, f] for f, t in forks.items()}, {f: [7, 8, 9] for f in forks})
    for f in forks:
        found = cache.add([1, 2, 3, 4, 5, f, 7, 8, 9])
        assert pages_of(cache, found) == pages_of(cache, f)[:2]


def test_a_fork_at_the_end_of_a_page_copies_nothing():
    cache = small(page_size=4)
    s = begun(cache, [1, 2, 3, 4])
    fork = cache.fork(s)
    step(cache, {s: [1, 2, 3, 4], fork: [1, 2, 3, 4]}, {s: [5], fork: [6]})
    assert cache.free_pages == 5


def test_a_fork_drops_the_room():
    cache = small(page_size=4)
    s = begun(cache, [1, 2])
    cache.reserve([s], 9)
    cache.fork(s)
    assert cache.free_pages == 7
    with pytest.raises(ValueError, match="counts: is 1 for sequence 0 of the batch; room for 0"):
        cache.advance([s], 1)


def test_truncated_pages_are_not_written_while_they_are_found():
    cache = small(page_size=4)
    tokens = [1, 2, 3, 4, 5, 6, 7, 8]
    s = begun(cache, tokens)
    cache.truncate(s, 2)
    assert cache.length(s) == 6 and cache.free_pages == 6
    other = cache.add([*tokens, 9])  # finds both pages
    assert cache.length(other) == 8 and pages_of(cache, s) == pages_of(cache, other)
    step(cache, {s: tokens[:6]}, {s: [77]})
    assert pages_of(cache, s)[1] != pages_of(cache, other)[1]
    step(cache, {other: tokens}, {other: [9]})
    cache.truncate(other, 3)  # alone with its page: no copy, but nobody finds it any more
    page = pages_of(cache, other)[1]
    step(cache, {other: tokens[:6]}, {other: [88]})
    assert pages_of(cache, other)[1] == page
    assert cache.length(cache.add([*tokens, 9])) == 4
    cache.truncate(s, 7)
    assert cache.length(s) == 0 and cache.block_table([s]).shape == (1, 0)


def test_room_for_several_steps():
    """A guess of four tokens of which two are right; then room that is already there."""
    cache = small(page_size=4)
    s = begun(cache, [1, 2])
    step(cache, {s: [1, 2]}, {s: [3, 4, 5, 6]}, counts=2)
    assert cache.length(s) == 4 and cache.free_pages == 6
    table = cache.block_table([s])
    step(cache, {s: [1, 2, 3, 4]}, {s: [7]})
    assert torch.equal(cache.block_table([s]), table)
    cache.truncate(s, 0)  # drops the room alone
    assert cache.length(s) == 5 and cache.free_pages == 6
    with pytest.raises(ValueError, match="room for 0 is reserved"):
        cache.advance([s], 1)


def test_packed_queries():
    """Prompts of different lengths in one call, written by slots."""
    cache = small(page_size=4)
    prompts = [[1, 2, 3, 4, 5, 6, 7], [8, 9], [1, 2, 3, 4, 5]]
    begun(cache, [1, 2, 3, 4, 5])
    sequences = [cache.add(p) for p in prompts]
    have = [cache.length(s) for s in sequences]
    assert have == [4, 0, 4]
    counts = torch.tensor([len(p) - n for p, n in zip(prompts, have)])
    cache.reserve(sequences, counts)
    slots = cache.slots(sequences, counts)
    assert slots.dtype == torch.int64 and slots.shape == (6,)
    bounds = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
    used = cache.cache_seqlens(sequences) + counts.int()
    table = cache.block_table(sequences)
    for layer in range(LAYERS):
        new = [rows(p, n, layer) for p, n in zip(prompts, have)]
        for pages, packed in zip((cache.k, cache.v), zip(*new)):
            pages[layer].flatten(0, 1)[slots] = torch.cat(packed)
        q = normal(6, 2 * HEADS, DIM, seed=layer)
        more = dict(block_table=table, seqused_k=used, causal=True)
        out = flash_attn_varlen_func(q, cache.k[layer], cache.v[layer], bounds, None, 3, 7, **more)
        for p, begin, end in zip(prompts, bounds, bounds[1:]):
            kv = (x[None] for x in rows(p, 0, layer))
            exact, _ = attention(q[None, begin:end], *kv, causal=True)
            close(out[begin:end], exact[0], torch.float32)
    cache.advance(sequences, counts, [p[n:] for p, n in zip(prompts, have)])
    assert [cache.length(s) for s in sequences] == [7, 2, 5]


def test_tensors():
    cache = KVCache(3, 5, 2, 4, 24, dtype=torch.bfloat16)
    assert cache.k.shape == cache.v.shape == (3, 5, 2, 4, 24)
    assert cache.k.dtype == cache.v.dtype == torch.bfloat16
    with torch.inference_mode():
        cache = KVCache(1, 5, 2, 1, 8)
        s = cache.add()
    cache.reserve([s], 1)
    cache.advance([s], 1)
    fork = cache.fork(s)
    cache.reserve([s, fork], 1)  # copies, outside of the mode in which the cache was made
    with torch.inference_mode():
        cache.reserve([s, cache.fork(s)], 2)
    cache.free(torch.tensor(s))
    assert cache.length(np.int64(fork)) == 1
    with pytest.raises(ValueError, match="sequence: is 0"):
        cache.free(s)
    assert cache.block_table([]).shape == (0, 0) and cache.cache_seqlens([]).shape == (0,)
    cache.reserve([], 1)


def test_out_of_pages():
    cache = small(pages=4, page_size=2)
    s = begun(cache, [1, 2, 3])
    fork, other = cache.fork(s), begun(cache, [4])
    before = state(cache)
    for sequences, counts, needed in (
        ([s], 4, 3),  # a copy and two more
        ([fork, other], [1, 2], 2),
        ([s, fork], 2, 3),
        ([s], 2**60, 2**59 + 1),
    ):
        with pytest.raises(OutOfPages, match=f"^pages: {needed} are needed and 1 free$"):
            cache.reserve(sequences, counts)
        assert same(state(cache), before)
    assert issubclass(OutOfPages, RuntimeError)
    cache.reserve([fork], 1)
    assert cache.free_pages == 0
    with pytest.raises(OutOfPages, match="^pages: 1 are needed and 0 free$"):
        cache.reserve([other], 2)
    cache.free(fork)
    cache.reserve([other], 2)


def test_the_last_of_a_page_needs_no_copy():
    cache = small(pages=3, page_size=4)
    s = begun(cache, [1, 2])
    forks = [s, cache.fork(s), cache.fork(s)]
    cache.reserve(forks, 2)
    assert cache.free_pages == 0
    with pytest.raises(OutOfPages, match="^pages: 3 are needed and 0 free$"):
        cache.reserve(forks, 3)


def test_arguments():
    shape = dict(layers=2, pages=4, page_size=2, heads_k=1, head_dim=8)
    for name in (*shape, "head_dim_v"):
        for wrong, error in (
            (0, ValueError),
            (-1, ValueError),
            (1.5, TypeError),
            (True, TypeError),
        ):
            with pytest.raises(error, match=f"^{name}: is {wrong}|^{name}: is (float|bool)"):
                KVCache(**{**shape, name: wrong})
    for wrong in (torch.int32, "float32"):
        with pytest.raises(TypeError, match="^dtype: is"):
            KVCache(**shape, dtype=wrong)
    cache = small(page_size=2)
    a, b = begun(cache, [1, 2, 3]), begun(cache, [4])
    gone = cache.add()
    cache.free(gone)
    cache.reserve([a, b], 2)
    before = state(cache)
    refused = [
        (lambda: cache.length(gone), "sequence: is 2, which is no sequence of this cache"),
        (lambda: cache.free(gone), "sequence: is 2, which is no"),
        (lambda: cache.fork(-1), "sequence: is -1, which is no"),
        (lambda: cache.fork(None), "sequence: is None; expected an integer"),
        (lambda: cache.fork("0"), "sequence: is str; expected an integer"),
        (lambda: cache.truncate(9, 1), "sequence: is 9"),
        (lambda: cache.truncate(a, 4), "count: is 4; sequence 0 has 3 tokens"),
        (lambda: cache.truncate(a, -1), "count: is -1; it must be at least 0"),
        (lambda: cache.truncate(a, 1.0), "count: is float"),
        (lambda: cache.add(3), "tokens: is int; expected a list"),
        (lambda: cache.add(torch.tensor(3)), "tokens: is Tensor; expected a list"),
        (lambda: cache.add("ab"), "tokens: is str; expected a list"),
        (lambda: cache.add(None), "tokens: is NoneType; expected a list"),
        (lambda: cache.add([1.0]), "tokens: is float; expected an integer"),
        (lambda: cache.add(torch.ones(1, 2, dtype=int)), "tokens: is list; expected an integer"),
        (lambda: cache.add([2**63]), "tokens: is 9223372036854775808; it must fit into 64 bits"),
        (lambda: cache.reserve(a, 1), "sequences: is int; expected a list"),
        (lambda: cache.reserve([a, gone], 9), "sequences: is 2, which is no"),
        (lambda: cache.reserve([a, b, a], 9), "sequences: is [0, 1, 0]; each may be there once"),
        (lambda: cache.reserve([a, b], [9]), "counts: are 1; expected one for each of 2"),
        (lambda: cache.reserve([a, b], [9, -1]), "counts: is -1; it must be at least 0"),
        (lambda: cache.reserve([a, b], [[9], [9]]), "counts: is list; expected an integer"),
        (lambda: cache.reserve([a, b], None), "counts: is None; expected an integer"),
        (lambda: cache.advance([a, b], [1, 3]), "counts: is 3 for sequence 1 of the batch; room"),
        (lambda: cache.advance([a, b], [[1], [3]]), "counts: is list"),
        (lambda: cache.advance([a, b], 1, [1, 2]), "tokens: is int; expected a list"),
        (lambda: cache.advance([a, b], 1, [[1]]), "tokens: has [1] ids for the sequences; exp"),
        (lambda: cache.advance([a, b], 1, [[1], [2, 3]]), "tokens: has [1, 2] ids for the seq"),
        (lambda: cache.advance([a, b], 1, [[1], [0.5]]), "tokens: is float"),
        (lambda: cache.advance([a, b], 1, [[1], [2**64]]), "tokens: is 18446744073709551616"),
        (lambda: cache.slots([a], 3), "counts: is 3 for sequence 0 of the batch; room for 2 is"),
        (lambda: cache.block_table([gone]), "sequences: is 2"),
        (lambda: cache.cache_seqlens([0.5]), "sequences: is float"),
    ]
    for call, message in refused:
        with pytest.raises((ValueError, TypeError)) as caught:
            call()
        assert str(caught.value).startswith(message), str(caught.value)
        assert same(state(cache), before), message
    with pytest.raises(AttributeError):
        flashattn.NoSuchCache  # noqa: B018
