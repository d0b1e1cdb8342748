"""A cache in pages gives what the same keys in a row give."""

import numpy as np
import pytest
import torch

import flashattn
from flashattn import flash_attn_interface as interface
from test_flash_attn import normal
from test_kvcache import angles


def in_pages(caches, size, seed):
    """Copies of caches [B, S, H, D] in pages of `size` in a random order, and the block table. NaN
    lies in the pages that nobody has."""
    batch, room = caches[0].shape[:2]
    each = -(-room // size)
    generator = torch.Generator().manual_seed(seed)
    table = torch.randperm(batch * each + 3, generator=generator)[: batch * each]
    table = table.reshape(batch, each)
    pages = []
    for cache in caches:
        padding = cache.new_full((batch, each * size - room, *cache.shape[2:]), torch.nan)
        rows = torch.cat([cache, padding], 1).unflatten(1, (each, size))
        paged = cache.new_full((batch * each + 3, *rows.shape[2:]), torch.nan)
        paged[table] = rows
        pages.append(paged)
    return pages, table.int()


@pytest.mark.parametrize("size", [1, 3, 16, 64])
@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_kvcache(size, new, causal):
    batch, room, rows = 3, 70, 2
    caches = [normal(batch, room, 2, 16, seed=s) for s in (1, 2)]
    lengths = torch.tensor([5, 66, 0], dtype=torch.int32)
    for cache in caches:
        for b in range(batch):
            cache[b, lengths[b] :] = torch.nan
    pages, table = in_pages(caches, size, seed=size)
    q = normal(batch, rows, 4, 16, seed=3)
    more = dict(cache_seqlens=lengths, causal=causal, return_softmax_lse=True)
    if new:
        cos, sin = angles(positions=80)
        more.update(k=normal(batch, rows, 2, 16, seed=4), v=normal(batch, rows, 2, 16, seed=5))
        more.update(rotary_cos=cos, rotary_sin=sin)
    run = flashattn.flash_attn_with_kvcache
    expected = run(q, *caches, **more)
    given = run(q, *pages, block_table=table, **more)
    for a, b in zip(given, expected):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    again, _ = in_pages(caches, size, seed=size)  # with the new keys
    for a, b in zip(pages, again):
        assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))


@pytest.mark.parametrize("told", ["seqused_k", "cu_seqlens_k"])
def test_packed_queries(told):
    caches = [normal(3, 40, 2, 8, seed=s) for s in (1, 2)]
    pages, table = in_pages(caches, 16, seed=1)
    used = torch.tensor([7, 40, 0], dtype=torch.int32)
    bounds = torch.tensor([0, 4, 5, 9], dtype=torch.int32)
    q = normal(9, 4, 8, seed=3)
    keys = torch.nn.functional.pad(used.cumsum(0), (1, 0)).int()
    packed = [torch.cat([c[b, : used[b]] for b in range(3)]) for c in caches]
    more = dict(causal=True, window_size=(20, 0), return_lse=True)
    run = flashattn.flash_attn_varlen_func
    expected = run(q, *packed, bounds, keys, 4, 40, **more)
    of_keys = dict(seqused_k=used) if told == "seqused_k" else {}
    bounds_k = keys if told == "cu_seqlens_k" else None
    given = run(q, *pages, bounds, bounds_k, 4, 40, block_table=table, **of_keys, **more)
    for a, b in zip(given, expected):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    out, lse, _, _ = interface._flash_attn_varlen_forward(
        q, *pages, bounds, keys, 4, 40, 0.0, 8**-0.5, True, 20, 0, block_table=table
    )
    assert torch.equal(out, given[0]) and torch.equal(lse, given[1])


def test_arrays():
    caches = [normal(2, 9, 2, 8, seed=s) for s in (1, 2)]
    pages, table = in_pages(caches, 4, seed=2)
    q, used = normal(2, 3, 2, 8, seed=3).numpy(), np.array([9, 2], np.int32)
    expected = flashattn.attention(q, *(c.numpy() for c in caches), seqused_k=used)
    arrays = [p.numpy() for p in pages]
    given = flashattn.attention(q, *arrays, seqused_k=used, page_table=table.numpy())
    np.testing.assert_allclose(given, expected, atol=1e-6)


def test_compiled():
    caches = [normal(2, 32, 2, 8, seed=s) for s in (1, 2)]
    pages, table = in_pages(caches, 8, seed=3)
    more = dict(k=normal(2, 1, 2, 8, seed=4), v=normal(2, 1, 2, 8, seed=5), block_table=table)
    q, lengths = normal(2, 1, 4, 8, seed=6), torch.tensor([5, 31], dtype=torch.int32)

    @torch.compile(backend="aot_eager", fullgraph=True)
    def run(q, k_cache, v_cache, lengths, **more):
        return flashattn.flash_attn_with_kvcache(q, k_cache, v_cache, cache_seqlens=lengths, **more)

    plain = [p.clone() for p in pages]
    expected = flashattn.flash_attn_with_kvcache(q, *plain, cache_seqlens=lengths, **more)
    assert torch.equal(run(q, *pages, lengths, **more), expected)
    assert all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(pages, plain))


def test_gradient():
    pages, table = in_pages([normal(2, 8, 2, 8, seed=1)] * 2, 4, seed=4)
    q = normal(5, 2, 8, seed=2).requires_grad_()
    bounds = torch.tensor([0, 2, 5], dtype=torch.int32)
    out = flashattn.flash_attn_varlen_func(
        q, *pages, bounds, torch.tensor([0, 8, 12], dtype=torch.int32), 3, 8, block_table=table
    )
    with pytest.raises(NotImplementedError, match="page_table: is offered in the forward pass"):
        out.sum().backward()


def test_arguments():
    pages, table = in_pages([normal(2, 8, 2, 8, seed=1)] * 2, 4, seed=5)
    untouched = [p.clone() for p in pages]
    q, one = normal(2, 1, 2, 8), normal(2, 1, 2, 8)
    wrong, new = table.clone(), dict(k=one, v=one)
    wrong[1, 1] = 9
    index = torch.tensor([0, 1])
    refused = [
        (dict(block_table=table.long()), "block_table: is torch.int64 [2, 2]; expected int32"),
        (dict(block_table=table[0]), "block_table: is torch.int32 [2]; expected int32"),
        (dict(block_table=table[:1]), "block_table: has 1 sequences and q 2"),
        (dict(block_table=wrong), "block_table: is 9 for page 1 of sequence 1; allowed are 0 to 6"),
        (
            dict(block_table=wrong, cache_seqlens=torch.tensor([1, 5], dtype=torch.int32), **new),
            "block_table: is 9 for a page of new keys; allowed are 0 to 6",
        ),
        (dict(block_table=table, cache_seqlens=9), "cache_seqlens: is 9; allowed are 0 to 8"),
        (dict(block_table=table, cache_seqlens=8, **new), "k: 1 new keys after 8 do not fit"),
        (dict(block_table=table, cache_batch_idx=index), "cache_batch_idx: is given with"),
    ]
    for more, message in refused:
        with pytest.raises(ValueError) as caught:
            flashattn.flash_attn_with_kvcache(q, *pages, **more)
        assert message in str(caught.value)
    assert all(torch.equal(a.nan_to_num(7), b.nan_to_num(7)) for a, b in zip(pages, untouched))
    bounds = torch.tensor([0, 1, 2], dtype=torch.int32)
    run = flashattn.flash_attn_varlen_func
    with pytest.raises(ValueError, match="seqused_k: is missing; with block_table"):
        run(q[:, 0], *pages, bounds, None, 1, 8, block_table=table)
    with pytest.raises(TypeError, match="cu_seqlens_k: is NoneType"):
        run(q[:, 0], q[:, 0], q[:, 0], bounds, None, 1, 8)
    state = dict(dropout_p=0.5, return_attn_probs=True)
    with torch.no_grad(), pytest.raises(NotImplementedError, match="return_attn_probs: is not"):
        run(q[:, 0], *pages, bounds, bounds, 1, 1, block_table=table, **state)
