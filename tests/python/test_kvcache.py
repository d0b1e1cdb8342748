"""flash_attn_with_kvcache, padding and rotary embedding beside their plain meanings."""

import pytest
import torch

import flashattn
from flashattn.bert_padding import (
    index_first_axis,
    pad_input,
    unpad_input,
    unpad_input_for_concatenated_sequences,
)
from flashattn.layers.rotary import apply_rotary_emb
from reference import attention, close
from test_flash_attn import normal


def rotated(x, cos, sin, positions, interleaved):
    """x [S, H, D] at positions [S], pair by pair."""
    out = x.double().clone()
    half = cos.shape[1]
    for p in range(half):
        a, b = (2 * p, 2 * p + 1) if interleaved else (p, p + half)
        c, s = cos[positions, p].double()[:, None], sin[positions, p].double()[:, None]
        first, second = x[..., a].double(), x[..., b].double()
        out[..., a], out[..., b] = first * c - second * s, first * s + second * c
    return out


def angles(positions=64, half=4):
    angle = torch.arange(positions)[:, None] / 100 ** (torch.arange(half) / half)
    return angle.cos(), angle.sin()


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
def test_rotary(interleaved, inplace):
    cos, sin = angles()
    x = normal(2, 5, 3, 16)
    offsets = torch.tensor([3, 40], dtype=torch.int32)
    expected = torch.stack(
        [rotated(x[b], cos, sin, torch.arange(5) + offsets[b], interleaved) for b in range(2)]
    )
    given = x.clone()
    out = apply_rotary_emb(given, cos, sin, interleaved, inplace, offsets)
    assert (out is given) == inplace
    close(out, expected, torch.float32)
    flat, bounds = x.flatten(0, 1), torch.tensor([0, 0, 5, 10], dtype=torch.int32)
    shifted = torch.tensor([0, 3, 40])
    packed = apply_rotary_emb(
        flat, cos, sin, interleaved, seqlen_offsets=shifted, cu_seqlens=bounds, max_seqlen=5
    )
    close(packed, expected.flatten(0, 1), torch.float32)
    leaf = x.clone().requires_grad_()
    apply_rotary_emb(leaf, cos, sin, interleaved, seqlen_offsets=offsets).square().sum().backward()
    close(leaf.grad, 2 * x, torch.float32)  # a rotation keeps the length
    with pytest.raises(ValueError, match="rotates 8 elements"):
        apply_rotary_emb(x[..., :6], cos, sin)


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("rotary", [None, False, True])
@pytest.mark.parametrize("by_index", [False, True])
def test_kvcache(new, rotary, by_index):
    if rotary is not None and not new:
        return  # flash_attn rotates new keys only
    batch, room, rows = 3, 40, 2
    places = torch.tensor([4, 0, 2]) if by_index else torch.arange(batch)
    caches = [normal(5 if by_index else batch, room, 2, 16, seed=s) for s in (1, 2)]
    before = [c.clone() for c in caches]
    q = normal(batch, rows, 4, 16, seed=3)
    added = [normal(batch, rows, 2, 16, seed=s) for s in (4, 5)] if new else [None, None]
    lengths = torch.tensor([5, 38, 0 if new else 1], dtype=torch.int32)
    cos, sin = angles()
    for causal in (False, True):
        for cache, saved in zip(caches, before):
            cache.copy_(saved)
        out, lse = flashattn.flash_attn_with_kvcache(
            q,
            *caches,
            *added,
            rotary_cos=None if rotary is None else cos,
            rotary_sin=None if rotary is None else sin,
            cache_seqlens=lengths,
            cache_batch_idx=places.int() if by_index else None,
            causal=causal,
            rotary_interleaved=bool(rotary),
            return_softmax_lse=True,
        )
        for b in range(batch):
            n, place = int(lengths[b]), places[b]
            keys, values = (c[place, :n].double() for c in before)
            query = q[b].double()
            if new:
                at = n + torch.arange(rows)
                more = added[0][b].double()
                if rotary is not None:
                    more = rotated(more, cos, sin, at, rotary)
                    spread = at if causal else torch.full((rows,), n)
                    query = rotated(query, cos, sin, spread, rotary)
                keys, values = torch.cat((keys, more)), torch.cat((values, added[1][b].double()))
                close(caches[0][place, : n + rows], keys, torch.float32)
                close(caches[1][place, : n + rows], values, torch.float32)
                assert torch.equal(caches[0][place, n + rows :], before[0][place, n + rows :])
            exact, exact_lse = attention(query[None], keys[None], values[None], causal=causal)
            close(out[b], exact[0], torch.float32)
            close(lse[b], exact_lse[0], torch.float32)


def test_kvcache_arguments():
    q, cache = normal(2, 1, 2, 8), normal(2, 10, 2, 8)
    run = flashattn.flash_attn_with_kvcache
    assert torch.equal(run(q, cache, cache), flashattn.flash_attn_func(q, cache, cache))
    assert torch.equal(
        run(q, cache, cache, cache_seqlens=4),
        flashattn.flash_attn_func(q, cache[:, :4], cache[:, :4]),
    )
    with pytest.raises(NotImplementedError, match="cache_leftpad"):
        run(q, cache, cache, cache_leftpad=torch.zeros(2, dtype=torch.int32))
    with pytest.raises(ValueError, match="cache_batch_idx says which"):
        run(q[:1], cache, cache)
    one, two = torch.zeros(2, 1, 2, 8), torch.zeros(2, 2, 2, 8)
    index = torch.tensor([0, 1])
    cos, sin = angles(positions=10)
    untouched = cache.clone()
    refused = [
        (dict(k=two, v=one), ValueError, "v: is torch.float32 [2, 1, 2, 8]; expected"),
        (dict(k=one[:1], v=one[:1]), ValueError, "k: is torch.float32 [1, 1, 2, 8]; expected"),
        (dict(k=one[:, :, :1], v=one), ValueError, "k: is"),
        (dict(k=one.half(), v=one.half()), ValueError, "k: is torch.float16"),
        (dict(k=one, v=one, softcap=-1.0), ValueError, "softcap: is -1"),
        (dict(k=one, v=one, family="x"), ValueError, "family"),
        (dict(k=one, v=one, sinks=torch.zeros(3)), ValueError, "sinks"),
        (dict(k=one, v=one, cache_batch_idx=index - 1), ValueError, "cache_batch_idx: is -1"),
        (dict(k=one, v=one, cache_batch_idx=index + 1), ValueError, "cache_batch_idx: is 2"),
        (dict(cache_batch_idx=index[:1]), ValueError, "cache_batch_idx: is torch.int64 [1]"),
        (dict(cache_seqlens=4.5), TypeError, "float"),
        (dict(v_cache=cache[:, :4], k=one, v=one), ValueError, "v_cache: has the shape"),
        (dict(cache_batch_idx=index, alibi_slopes=torch.ones(7, 2)), ValueError, "alibi_slopes"),
        (dict(k=one, v=one, rotary_cos=cos), ValueError, "only one is given"),
        (dict(rotary_cos=cos, rotary_sin=sin), ValueError, "only with new keys"),
        (
            dict(k=one, v=one, rotary_cos=cos[:4], rotary_sin=sin[:4]),
            ValueError,
            "rotary_cos: has 4 positions; the sequences grow to 5",
        ),
        (dict(cache_batch_idx=index, out=torch.zeros(3, 2, 1, 2, 8)), ValueError, "out: has the"),
    ]
    for spoil, error, message in refused:
        with pytest.raises(error) as caught:
            run(q, cache, **{"v_cache": cache, "cache_seqlens": 4, **spoil})
        assert message in str(caught.value)
        assert torch.equal(cache, untouched), spoil
    nobody = torch.zeros(0, dtype=torch.int32)
    assert run(q[:0], cache, cache, cache_batch_idx=nobody).shape == (0, 1, 2, 8)
    with pytest.raises(ValueError, match="do not fit into a cache of 10"):
        run(q, cache, cache, one, one, cache_seqlens=10)
    with pytest.raises(ValueError, match="cache_seqlens: is -1"):
        run(q, cache, cache, one, one, cache_seqlens=-1)
    with pytest.raises(ValueError, match="only one is given"):
        run(q, cache, cache, one)
    with pytest.raises(ValueError, match="cache_seqlens: is torch.int64"):
        run(q, cache, cache, cache_seqlens=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="cache_seqlens: is 11; allowed are 0 to 10"):
        run(q, cache, cache, cache_seqlens=11)
    assert torch.equal(cache, untouched)


def test_padding():
    x = normal(3, 6, 2, 4).requires_grad_()
    mask = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 0, 1], [0, 0, 0, 0, 0, 0]])
    tokens, indices, bounds, longest, used = unpad_input(x, mask)
    assert torch.equal(tokens, x[mask.bool()])
    assert indices.tolist() == [0, 1, 7, 8, 9, 11]
    assert (bounds.tolist(), longest, used.tolist()) == ([0, 2, 6, 6], 4, [2, 4, 0])
    assert bounds.dtype == used.dtype == torch.int32
    back = pad_input(tokens, indices, 3, 6)
    assert torch.equal(back, x * mask[..., None, None])
    (gradient,) = torch.autograd.grad(back.sum(), x)
    assert torch.equal(gradient, mask[..., None, None].expand_as(x).float())
    spare = torch.zeros_like(mask)
    spare[0, 2] = 1
    tokens, _, bounds, longest, used = unpad_input(x, mask, spare)
    assert (len(tokens), bounds.tolist(), longest) == (7, [0, 3, 7, 7], 4)
    assert used.tolist() == [2, 4, 0]
    assert torch.equal(index_first_axis(x.flatten(0, 1), indices), x.flatten(0, 1)[indices])


def test_padding_of_concatenated_sequences():
    x = normal(3, 6, 4)
    lengths = torch.tensor([[2, 3, 0, 0, 0, 0], [3, 2, 0, 0, 0, 0], [6, 0, 0, 0, 0, 0]])
    tokens, indices, bounds, longest = unpad_input_for_concatenated_sequences(x, lengths)
    assert torch.equal(tokens, torch.cat((x[0, :5], x[1, :5], x[2])))
    assert (bounds.tolist(), longest) == ([0, 2, 5, 8, 10, 16], 6)
    assert torch.equal(pad_input(tokens, indices, 3, 6)[2], x[2])
