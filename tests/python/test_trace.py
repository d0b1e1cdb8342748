"""What torch.jit.trace records is the computation: a graph traced with some tensors is right for
others, of other lengths where the function allows them."""

import warnings

import pytest
import torch

import flashattn
from flashattn import bert_padding
from flashattn import flash_attn_interface as interface
from flashattn.layers.rotary import apply_rotary_emb
from test_flash_attn import cumulative, normal

attention = flashattn.flash_attn_func
varlen = flashattn.flash_attn_varlen_func
with_kvcache = flashattn.flash_attn_with_kvcache


def batched(seed, batch=2, rows=5, keys=7, dim=8):
    return [
        normal(batch, n, heads, dim, seed=seed + i)
        for i, (n, heads) in enumerate(((rows, 4), (keys, 2), (keys, 2)))
    ]


def packed(seed, dim=8):
    """Three sequences, whose lengths go with the seed."""
    lengths = [[2, 5, 3], [6, 1, 4], [1, 1, 9]][seed % 3]
    bounds = cumulative(lengths)
    return [*(normal(sum(lengths), 2, dim, seed=seed + i) for i in range(3)), bounds]


def cache(seed, rows=2):
    q, k, v = (normal(2, rows, 2, 8, seed=seed + i) for i in range(3))
    caches = [normal(3, 12, 2, 8, seed=seed + i) for i in (3, 4)]
    lengths = torch.tensor([[3, 7], [9, 0], [1, 10]][seed % 3], dtype=torch.int32)
    places = torch.tensor([[2, 0], [0, 1], [1, 2]][seed % 3])
    return [q, k, v, *caches, lengths, places]


ANGLES = normal(16, 4)
TABLE = ANGLES.cos(), ANGLES.sin()
SLOPES = normal(4)


def decode(q, k, v, k_cache, v_cache, lengths, places):
    """Several steps, whose caches grow in place."""
    out = with_kvcache(
        q,
        k_cache,
        v_cache,
        k,
        v,
        *TABLE,
        cache_seqlens=lengths,
        cache_batch_idx=places,
        causal=True,
        return_softmax_lse=True,
    )
    return *out, k_cache, v_cache


def padded_batch(x, mask):
    """Through bert_padding and back."""
    tokens, indices, bounds, longest, _ = bert_padding.unpad_input(x, mask)
    out = varlen(tokens, tokens, tokens, bounds, bounds, longest, longest, causal=True)
    return bert_padding.pad_input(out, indices, x.shape[0], x.shape[1])


def mask(seed):
    lengths = torch.tensor([[4, 1, 2], [1, 6, 3], [2, 2, 2]][seed % 3])
    return torch.arange(6) < lengths[:, None]


def concatenated(x, lengths):
    lengths = torch.nn.functional.pad(lengths, (0, 4))  # to [batch, seqlen]
    tokens, indices, bounds, longest = bert_padding.unpad_input_for_concatenated_sequences(
        x, lengths
    )
    out = varlen(tokens, tokens, tokens, bounds, bounds, longest, longest)
    return bert_padding.pad_input(out, indices, x.shape[0], x.shape[1])


def into(q, k, v):
    with torch.no_grad():
        out = torch.empty_like(q)
        attention(q, k, v, out=out)
    return out


def parts(seed):
    shapes = ((2, 5, 2, 8), (2, 2, 5))
    return [normal(*shapes[i % 2], seed=seed + i) for i in range(4)]


def private(q, k, v):
    out, lse, _, _ = interface._flash_attn_forward(
        q, k, v, 0.0, 0.3, True, -1, -1, 0.0, None, False
    )
    return out, lse


def private_backward(q, k, v):
    with torch.no_grad():
        out, lse = private(q, k, v)
        results = [torch.empty_like(t) for t in (q, k, v)]
        delta = interface._flash_attn_backward(
            out, q, k, v, out, lse, *results, 0.0, 0.3, True, -1, -1, 0.0, None, True
        )
    return *results, delta


def backward(q, k, v, *options, **numbers):
    """The gradients, given out and lse as a caller has them."""
    given = dict(zip(("cu_seqlens_q", "cu_seqlens_k"), options * 2), **numbers)
    with torch.no_grad():
        out, lse = flashattn.attention(q, k, v, return_lse=True, **given)
    of = (out * 2, q, k, v, out, lse)
    return tuple(flashattn.attention_backward(*of, dlse=lse, **given).values())


def backward_of_options(q, k, v, bias, sinks, seen):
    with torch.no_grad():
        out, lse = flashattn.attention(q, k, v, bias=bias, sinks=sinks, return_lse=True)
    given = dict(bias=bias, sinks=sinks, alibi_slopes=SLOPES)
    masked = flashattn.attention_backward(out, q, k, v, out, lse, bias=seen)
    of_all = flashattn.attention_backward(out, q, k, v, out, lse, **given)
    return *masked.values(), *of_all.values()


# name: (function, its inputs from a seed)
CASES = {
    "func": (lambda q, k, v: attention(q, k, v, causal=True, softcap=2.0), batched),
    "lse": (lambda q, k, v: attention(q, k, v, return_lse=True), batched),
    "padded head_dim": (attention, lambda s: batched(s, dim=13)),
    "other lengths": (attention, lambda s: batched(s, 1 + s % 2, 4 + s % 3, 9 - s % 4)),
    "other lengths, padded head_dim": (attention, lambda s: batched(s, 2, 4 + s % 3, 9, dim=13)),
    "options": (
        lambda q, k, v, bias, sinks: attention(
            q, k, v, bias=bias, sinks=sinks, alibi_slopes=SLOPES, window_size=(3, 1)
        ),
        lambda s: [
            *batched(s),
            normal(2, 1, 5, 7, seed=s),
            normal(4, seed=s + 1),
        ],
    ),
    "boolean bias": (
        lambda q, k, v, bias: attention(q, k, v, bias=bias),
        lambda s: [*batched(s), normal(2, 1, 5, 7, seed=s) > 0],
    ),
    "seqused": (
        lambda q, k, v, used: attention(q, k, v, seqused_k=used),
        lambda s: [*batched(s), torch.tensor([1 + s % 3, 6 - s % 3], dtype=torch.int32)],
    ),
    "attention": (
        lambda q, k, v: flashattn.attention(q, k, v, causal=True, return_lse=True),
        batched,
    ),
    "attention of packed sequences": (
        lambda q, k, v, c: flashattn.attention(q, k, v, cu_seqlens_q=c, cu_seqlens_k=c),
        packed,
    ),
    "qkvpacked": (
        flashattn.flash_attn_qkvpacked_func,
        lambda s: [normal(2, 5, 3, 2, 8, seed=s)],
    ),
    "kvpacked": (
        flashattn.flash_attn_kvpacked_func,
        lambda s: [normal(2, 5, 2, 8, seed=s), normal(2, 6, 2, 2, 8, seed=s + 1)],
    ),
    "varlen": (lambda q, k, v, c: varlen(q, k, v, c, c, 9, 9, causal=True), packed),
    "varlen, longest of the data": (
        lambda q, k, v, c: varlen(q, k, v, c, c, (c[1:] - c[:-1]).max(), (c[1:] - c[:-1]).max()),
        packed,
    ),
    "varlen, padded head_dim": (
        lambda q, k, v, c: varlen(q, k, v, c, c, 9, 9),
        lambda s: packed(s, 13),
    ),
    "varlen_qkvpacked": (
        lambda qkv, c: flashattn.flash_attn_varlen_qkvpacked_func(qkv, c, 9),
        lambda s: [torch.stack(packed(s)[:3], 1), packed(s)[3]],
    ),
    "varlen_kvpacked": (
        lambda q, kv, c: flashattn.flash_attn_varlen_kvpacked_func(q, kv, c, c, 9, 9),
        lambda s: [packed(s)[0], torch.stack(packed(s)[1:3], 1), packed(s)[3]],
    ),
    "kvcache": (decode, cache),
    "kvcache without new keys": (
        lambda q, k, v, lengths: with_kvcache(q, k, v, cache_seqlens=lengths),
        lambda s: [cache(s)[0], *(t[:2] for t in cache(s)[3:5]), cache(s)[5]],
    ),
    "whole kvcache": (
        lambda q, k, v: with_kvcache(q, k, v),
        lambda s: [cache(s)[0], *(t[:2, : 8 + s % 3] for t in cache(s)[3:5])],
    ),
    "kvcache into": (
        lambda q, k, v, kc, vc, lengths, places: (
            with_kvcache(q, kc[:2], vc[:2], k, v, cache_seqlens=lengths, out=torch.empty_like(q))
        ),
        cache,
    ),
    "bert_padding": (padded_batch, lambda s: [normal(3, 6, 2, 8, seed=s), mask(s)]),
    "concatenated": (
        concatenated,
        lambda s: [
            normal(2, 6, 2, 8, seed=s),
            torch.tensor([[[2, 3], [4, 0]], [[1, 4], [2, 2]], [[5, 0], [6, 0]]][s % 3]),
        ],
    ),
    "rotary": (
        lambda x, offsets: apply_rotary_emb(x, *TABLE, seqlen_offsets=offsets),
        lambda s: [normal(2, 5 + s % 2, 3, 8, seed=s), torch.tensor([s % 5, 9 - s % 5])],
    ),
    "rotary in place": (
        lambda x: apply_rotary_emb(x, *TABLE, True, True, 3),
        lambda s: [normal(2, 5 + s % 2, 3, 8, seed=s)],
    ),
    "rotary of packed sequences": (
        lambda x, bounds: apply_rotary_emb(x, *TABLE, cu_seqlens=bounds),
        lambda s: [packed(s)[0], packed(s)[3]],
    ),
    "dropout": (lambda q, k, v: attention(q, k, v, dropout_p=0.5), batched),
    "probabilities": (
        lambda q, k, v: attention(q, k, v, dropout_p=0.3, return_attn_probs=True),
        batched,
    ),
    "probabilities of packed sequences": (
        lambda q, k, v, c: varlen(q, k, v, c, c, 9, 9, dropout_p=0.3, return_attn_probs=True),
        packed,
    ),
    "out": (into, batched),
    "merge": (flashattn.merge, parts),
    "private forward": (private, batched),
    "private forward of packed sequences": (
        lambda q, k, v, c: interface._flash_attn_varlen_forward(
            q,
            k,
            v,
            c,
            c,
            (c[1:] - c[:-1]).max(),
            (c[1:] - c[:-1]).max(),
            0.0,
            0.3,
            True,
        )[:2],
        packed,
    ),
    "private backward": (private_backward, batched),
    "backward": (backward, batched),
    "backward, padded head_dim": (backward, lambda s: batched(s, dim=13)),
    "backward of other lengths": (
        lambda q, k, v: backward(q, k, v, causal=True, window=(2, 0)),
        lambda s: batched(s, 1 + s % 2, 4 + s % 3, 9 - s % 4),
    ),
    "backward of packed sequences": (backward, packed),
    "backward with dropout": (
        lambda q, k, v: backward(q, k, v, dropout_p=0.3, dropout_seed=2**64 - 1),
        batched,
    ),
    "backward of options": (
        backward_of_options,
        lambda s: [
            *batched(s),
            normal(2, 1, 5, 7, seed=s),
            normal(4, seed=s + 1),
            normal(2, 1, 5, 7, seed=s) > 0,
        ],
    ),
}


def tuple_of(x):
    return x if isinstance(x, tuple) else (x,)


def copies(inputs):
    return [t.clone() for t in inputs]


def traced(function, inputs):
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        return torch.jit.trace(function, tuple(copies(inputs)), check_trace=False)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("gradients", [False, True])
def test_a_trace_is_right_for_other_inputs(case, gradients):
    function, inputs_of = CASES[case]
    if gradients and case in ("rotary in place", "kvcache", "kvcache into"):
        pytest.skip("leaves cannot be written to")

    def inputs(seed):
        return [
            t.requires_grad_() if gradients and t.is_floating_point() else t
            for t in inputs_of(seed)
        ]

    graph = traced(function, inputs_of(3) if not gradients else inputs(3))
    for seed in (3, 4, 5, 6):
        here, there = inputs(seed), inputs(seed)
        torch.manual_seed(seed)
        got = tuple_of(graph(*here))
        torch.manual_seed(seed)
        expected = tuple_of(function(*there))
        assert len(got) == len(expected)
        for a, b in zip(got, expected):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
        for a, b in zip(here, there):  # what is written in place
            assert torch.equal(a, b)
        leaves = [t for t in there if t.requires_grad]
        if leaves and all(t.requires_grad for t in expected):
            losses = [sum(t.square().sum() for t in results) for results in (got, expected)]
            of_graph = torch.autograd.grad(losses[0], [t for t in here if t.requires_grad])
            for a, b in zip(of_graph, torch.autograd.grad(losses[1], leaves)):
                torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_trace_checks_itself():
    inputs = tuple(t.requires_grad_() for t in batched(0))
    graph = torch.jit.trace(lambda q, k, v: attention(q, k, v, return_lse=True), inputs)
    assert torch.equal(graph(*inputs)[0], attention(*inputs))


def test_dropout_of_a_trace_draws_anew():
    run = lambda q, k, v: attention(q, k, v, dropout_p=0.5)  # noqa: E731
    graph, inputs = traced(run, batched(0)), batched(0)
    assert not torch.equal(graph(*inputs), graph(*inputs))


def test_a_trace_refuses_what_it_would_keep_as_a_constant():
    def gradient(q, k, v):
        out = attention(q.detach().requires_grad_(), k, v)
        return torch.autograd.grad(out.sum(), k)

    inputs = [t.requires_grad_() for t in batched(0)]
    with pytest.raises(
        NotImplementedError, match=r"gradients are not recorded by torch\.jit\.trace"
    ):
        torch.jit.trace(gradient, tuple(inputs))


def test_a_trace_keeps_the_checks_of_data():
    rotate = traced(
        lambda x, offsets: apply_rotary_emb(x, *TABLE, seqlen_offsets=offsets),
        [normal(1, 4, 2, 8), torch.tensor([3])],
    )
    for offset in (-1, 13):
        with pytest.raises(RuntimeError, match="index out of range"):
            rotate(normal(1, 4, 2, 8), torch.tensor([offset]))
    graph = traced(decode, cache(0))
    inputs = cache(0)
    inputs[5] = torch.tensor([3, 11], dtype=torch.int32)
    before = inputs[3].clone()
    with pytest.raises(RuntimeError, match="2 new keys after 11 do not fit"):
        graph(*inputs)
    assert torch.equal(inputs[3], before)
