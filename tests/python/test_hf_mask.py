"""What transformers' masks mean: each is the mask of "eager", and attention does what it says."""

import copy
import itertools

import pytest
import torch
from transformers import masking_utils as m

import flashattn
from flashattn import hf
from flashattn._hf_mask import Mask, Meaning
from reference import close

B, S = 3, 12
POSITIONS = torch.tensor(
    [
        [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
        [5, 6, 7, 0, 0, 1, 2, 3, 4, 5, 0, 1],
    ]
)
BEGINS = torch.tensor([0, 2, 5])


def packed(function):
    sequences = m.find_packed_sequence_indices(POSITIONS)
    return m.packed_sequence_compatibility_function(function, POSITIONS, sequences)


def block_diagonal(batch, head, q, k):
    return (q // 4) == (k // 4)


FUNCTIONS = {
    "causal": m.causal_mask_function,
    "bidirectional": m.bidirectional_mask_function,
    "sliding": m.sliding_window_causal_mask_function(4),
    "sliding one": m.sliding_window_causal_mask_function(1),
    "sliding both ways": m.sliding_window_bidirectional_mask_function(3),
    "chunked": m.chunked_causal_mask_function(5, BEGINS),
    "packed": packed(m.causal_mask_function),
    "packed sliding": packed(m.sliding_window_causal_mask_function(3)),
    "packed chunked": packed(m.chunked_causal_mask_function(3, torch.zeros(B, dtype=torch.long))),
    "or": m.or_masks(m.causal_mask_function, block_diagonal),
    "and": m.and_masks(m.causal_mask_function, block_diagonal),
    "blocks": m.or_masks(m.causal_mask_function, m.blockwise_overlay((POSITIONS > 5).long() - 1)),
}
STRUCTURED = [name for name in FUNCTIONS if name not in ("or", "and", "blocks")]
PADDINGS = {
    "none": [[1] * S] * B,
    "right": [[1] * 7 + [0] * 5, [1] * S, [1] * 3 + [0] * 9],
    "left": [[0] * 5 + [1] * 7, [1] * S, [0] * 9 + [1] * 3],
    "middle": [[1] * 4 + [0] * 3 + [1] * 5, [1] * S, [0] + [1] * 9 + [0] * 2],
}


def arguments(name, padding=None, seqlen_q=S, seqlen_k=S, q_offset=0, kv_offset=0):
    return dict(
        batch_size=B,
        q_length=seqlen_q,
        kv_length=seqlen_k,
        q_offset=q_offset,
        kv_offset=kv_offset,
        mask_function=FUNCTIONS[name],
        attention_mask=None if padding is None else torch.tensor(PADDINGS[padding]).bool(),
        allow_is_causal_skip=True,
    )


def plain(mask):
    return mask + torch.zeros(())


@pytest.fixture
def seen(monkeypatch):
    """The keywords that the library's functions are called with."""
    calls = []
    for name in ("flash_attn_func", "flash_attn_varlen_func"):
        function = getattr(flashattn, name)

        def call(*args, _function=function, **kwargs):
            calls.append(kwargs)
            return _function(*args, **kwargs)

        monkeypatch.setattr(hf, name, call)
    return calls


def attend(mask, seqlen_q=S, seqlen_k=S, module=None, rows=None, **kwargs):
    """Output, and the gradients of query, key and value; `rows` of the output alone."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((B, 4, seqlen_q, 16), (B, 2, seqlen_k, 16), (B, 2, seqlen_k, 24))
    inputs = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]
    module = torch.nn.Module() if module is None else module
    out, weights = hf.attention_forward(module, *inputs, mask, **kwargs)
    assert weights is None
    if rows is not None:
        out = out * rows[..., None, None]
    out.square().sum().backward()
    return [out.detach(), *(x.grad for x in inputs)]


def alike(a, b):
    for x, y in zip(a, b, strict=True):
        close(x, y, torch.float32)


@pytest.mark.parametrize("padding", [None, *PADDINGS])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_mask_is_eagers_and_attention_obeys_it(name, padding):
    given = arguments(name, padding)
    mask, expected = hf.attention_mask(**given), m.eager_mask(**given)
    assert mask.shape == expected.shape and mask.dtype == expected.dtype
    assert torch.equal(plain(mask), expected)
    assert isinstance(mask, Mask) == (
        name in STRUCTURED
        and (padding in (None, "none") or not name.startswith(("packed", "chunked")))
    )
    rows = (expected == 0)[:, 0].any(
        -1
    )  # a row without any key: "eager" has the mean of all values
    if name in ("causal", "sliding") and padding == "right":  # padding itself is 0
        rows = rows & given["attention_mask"]
    alike(attend(mask, rows=rows), attend(expected, rows=rows))


OFFSETS = [
    (1, S, 7, 0),  # a step with a dynamic cache, whose end is empty
    (1, S, S - 1, 0),
    (4, S, S - 4, 0),
    (4, S, 0, 0),  # prefill of a static cache
    (4, S, 3, 0),
    (4, 9, 8, 3),  # a sliding cache
    (S, S, 2, 2),
]


@pytest.mark.parametrize("tensor", [False, True])
@pytest.mark.parametrize("offsets", OFFSETS)
@pytest.mark.parametrize(
    "name", ["causal", "bidirectional", "sliding", "sliding both ways", "chunked"]
)
def test_offsets(name, offsets, tensor):
    seqlen_q, seqlen_k, q_offset, kv_offset = offsets
    for padding in (None, *PADDINGS):
        q_start = torch.tensor(q_offset) if tensor else q_offset
        given = arguments(name, padding, seqlen_q, seqlen_k, q_start, kv_offset)
        mask, expected = hf.attention_mask(**given), m.eager_mask(**given)
        assert torch.equal(plain(mask), expected), padding
        rows = (expected == 0)[:, 0].any(-1)
        ends = padding in ("none", "right") and seqlen_q == seqlen_k
        if name in ("causal", "sliding") and ends:
            kept = given["attention_mask"][:, kv_offset:]
            rows = rows & torch.nn.functional.pad(kept, (0, kv_offset))
        sizes = (seqlen_q, seqlen_k, None, rows)
        alike(attend(mask, *sizes), attend(expected, *sizes))


@pytest.mark.parametrize("padding", ["right", "left"])
def test_a_shorter_padding_mask_is_filled_up(padding):
    given = arguments("causal", padding, 4, S + 5, 8, 0)
    mask = hf.attention_mask(**given)
    assert torch.equal(plain(mask), m.eager_mask(**given))


def test_known_masks_cost_linear_memory(seen):
    for name, padding in itertools.product(STRUCTURED, (None, "right", "left", "middle")):
        if padding is not None and name.startswith(("packed", "chunked")):
            continue
        seen.clear()
        attend(hf.attention_mask(**arguments(name, padding)))
        (call,) = seen
        bias = call.get("bias")
        assert bias is None or bias.shape == (B, 1, 1, S), (name, padding)
        if padding is None or (padding == "right" and name in ("causal", "bidirectional")):
            assert bias is None, (name, padding)
    attend(hf.attention_mask(**arguments("causal", None, 4, S, torch.tensor(3), 0)), 4, S)
    assert seen[-1]["bias"] is None and seen[-1]["seqused_k"].tolist() == [7] * B


def test_nothing_comes_back_only_where_the_model_allows_it():
    given = arguments("bidirectional")
    assert hf.attention_mask(**given, allow_is_bidirectional_skip=True) is None
    assert hf.attention_mask(**given, allow_is_bidirectional_skip=False) is not None
    given = arguments("bidirectional", "none")
    assert hf.attention_mask(**given, allow_is_bidirectional_skip=True) is None
    for name in FUNCTIONS:
        mask = hf.attention_mask(**arguments(name), allow_is_bidirectional_skip=True)
        assert (mask is None) == (name == "bidirectional")
    given = arguments("bidirectional", "left")
    assert hf.attention_mask(**given, allow_is_bidirectional_skip=True) is not None


def test_the_mask_decides_not_the_module():
    module = torch.nn.Module()
    for name in ("causal", "bidirectional", "sliding"):
        mask = hf.attention_mask(**arguments(name))
        expected = attend(plain(mask))
        for causal, window in itertools.product((True, False, None), (None, 2, 5)):
            module.is_causal, module.sliding_window = causal, window
            alike(attend(mask, module=module, is_causal=causal, sliding_window=window), expected)
    module.is_causal = True
    alike(attend(None, module=module), attend(torch.zeros(1, 1, S, S)))


def test_what_models_do_with_a_mask():
    mask = hf.attention_mask(**arguments("sliding", "left"))
    expected = m.eager_mask(**arguments("sliding", "left"))
    for change in (
        lambda x: x[:, :, :, :7],
        lambda x: x[:, :, -3:],
        lambda x: x.expand(B, 4, S, S),
        lambda x: x == 0,
        lambda x: x.to(torch.float16),
        lambda x: torch.cat((x, x), dim=-1),
        lambda x: torch.where(x > -1, 1.0, x),
        lambda x: torch.nn.functional.pad(x, (0, 2), value=0.0),
        lambda x: x.masked_fill(x < 0, -7.0),
        lambda x: x.clone(),
        lambda x: x.repeat_interleave(2, dim=0),
    ):
        got = change(mask)
        assert not isinstance(got, Mask)
        assert torch.equal(got, change(expected))
    for kept in (mask.detach(), mask.contiguous(), mask[:, :, :, :S], mask.to(torch.float32)):
        assert isinstance(kept, Mask) and kept.padding is mask.padding
    assert "causal=True" in repr(mask)


def test_masks_of_the_user():
    bools = torch.rand(B, 1, S, S) > 0.4
    bools[..., 0] = True
    floats = torch.zeros(B, 1, S, S).masked_fill(~bools, torch.finfo(torch.float32).min)
    alike(attend(bools), attend(floats))
    alike(attend(bools[:1].expand(B, 1, S, S)), attend(floats[:1]))
    per_head = torch.randn(1, 4, S, S)
    alike(attend(per_head), attend(per_head.expand(B, 4, S, S).contiguous()))
    column = torch.randn(B, 1, S, 1)
    alike(attend(column), attend(column.expand(B, 1, S, S).contiguous()))
    with pytest.raises(TypeError, match="attention_mask: is torch.int64"):
        attend(bools.long())
    for wrong in (bools[..., :5], bools[:, 0], bools[:2], torch.ones(B, S)):
        with pytest.raises(ValueError, match="attention_mask: has the shape"):
            attend(wrong)


def test_a_row_of_the_lowest_numbers_sees_nothing():
    """As models write their own masks. Its gradient was too large by the number of keys."""
    bools = torch.ones(B, 1, S, S, dtype=torch.bool)
    bools[:, :, 3:] = False
    for dtype in (torch.float32, torch.float16):
        floats = torch.zeros(B, 1, S, S, dtype=dtype).masked_fill(~bools, torch.finfo(dtype).min)
        for found in (attend(floats), attend(None, position_bias=floats)):
            assert not found[0][:, 3:].any()
            alike(found, attend(bools))


def test_sequences_of_a_flattened_batch(seen):
    given = dict(batch_size=1, q_length=S, kv_length=S, mask_function=m.causal_mask_function)
    bounds = torch.tensor([0, 5, 6, S])
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, S, 16, generator=generator) for _ in range(3))
    module = torch.nn.Module()

    def run(mask, q=q, k=k, v=v, **kwargs):
        return hf.attention_forward(module, q, k, v, mask, **kwargs)[0]

    lengths = dict(cu_seq_lens_q=bounds, cu_seq_lens_k=bounds.clone())
    causal = hf.attention_mask(**given)
    parts = [
        run(
            hf.attention_mask(**{**given, "q_length": e - b, "kv_length": e - b}),
            *(x[:, :, b:e] for x in (q, k, v)),
        )
        for b, e in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)
    ]
    expected = torch.cat(parts, dim=1)
    close(run(causal, **lengths), expected, torch.float32)
    assert "cu_seqlens_q" in seen[-1]
    close(run(causal, **lengths, max_length_q=7, max_length_k=7), expected, torch.float32)
    # Told twice, by the same and by other positions.
    positions = torch.cat([torch.arange(int(n)) for n in bounds.diff()])[None]
    function = m.packed_sequence_compatibility_function(
        m.causal_mask_function, positions, m.find_packed_sequence_indices(positions)
    )
    twice = hf.attention_mask(**{**given, "mask_function": function})
    close(run(twice, **lengths), expected, torch.float32)
    assert "cu_seqlens_q" in seen[-1]
    other = torch.tensor([0, 3, S])
    both = run(twice, cu_seq_lens_q=other, cu_seq_lens_k=other)
    sequence = torch.bucketize(torch.arange(S), other[1:], right=True)
    written = plain(twice).masked_fill(sequence[:, None] != sequence, -torch.inf)
    close(both, run(written), torch.float32)
    # A written out mask, padding, and across two packings.
    close(run(plain(causal), **lengths), expected, torch.float32)
    padding = torch.ones(1, S, dtype=torch.bool)
    padding[0, :2] = False
    padded = hf.attention_mask(**given, attention_mask=padding)
    close(run(padded, **lengths)[:, 5:], expected[:, 5:], torch.float32)
    across = run(None, cu_seq_lens_q=bounds, cu_seq_lens_k=torch.tensor([0, 1, 9, S]))
    close(across[:, :5], v[:, :, :1].transpose(1, 2).expand(1, 5, 2, 16), torch.float32)
    with pytest.raises(ValueError, match="cu_seq_lens_q, cu_seq_lens_k: only one"):
        run(causal, cu_seq_lens_q=bounds)


def test_a_position_bias_and_sinks_join_the_mask():
    bias = torch.randn(1, 4, S, S)
    for name in FUNCTIONS:
        mask = hf.attention_mask(**arguments(name))
        alike(attend(mask, position_bias=bias), attend(plain(mask) + bias))
    given = arguments("causal", "right")
    mask, rows = hf.attention_mask(**given), given["attention_mask"]
    alike(attend(mask, rows=rows, position_bias=bias), attend(plain(mask) + bias, rows=rows))
    mask = hf.attention_mask(**arguments("packed"))
    sinks = torch.randn(4)
    alike(attend(mask, s_aux=sinks), attend(plain(mask), s_aux=sinks))


def test_dropout_only_in_training():
    mask = hf.attention_mask(**arguments("causal"))
    module = torch.nn.Module().eval()
    alike(attend(mask, module=module, dropout=0.5), attend(mask))
    module.train()
    assert not torch.equal(attend(mask, module=module, dropout=0.5)[0], attend(mask)[0])


def test_unknown_arguments_are_refused_by_name():
    mask = hf.attention_mask(**arguments("causal"))
    attend(mask, indices=None, something=None, output_attentions=False)
    for name, value in (
        ("indices", torch.zeros(1)),
        ("block_indices", torch.zeros(1)),
        ("sinks", torch.zeros(1)),
        ("cache", object()),
        ("output_attentions", True),
        ("something", 3),
        ("something", False),
    ):
        with pytest.raises(NotImplementedError, match=f"{name}: is not offered"):
            attend(mask, **{name: value})
    with pytest.raises(ValueError, match=r"query: has the shape \(1, 8\)"):
        hf.attention_forward(torch.nn.Module(), *(torch.zeros(1, 8),) * 3, None)


def test_padding_of_other_dimensions_is_refused_by_name():
    given = arguments("bidirectional") | dict(attention_mask=torch.ones(B, S, S))
    with pytest.raises(ValueError, match=r"attention_mask: has the shape \(3, 12, 12\); expected"):
        hf.attention_mask(**given)


def test_a_mask_can_be_copied():
    mask = hf.attention_mask(**arguments("causal", "left"))
    for copied in (copy.copy(mask), copy.deepcopy(mask)):
        assert type(copied) is Mask
        assert torch.equal(copied + 0, mask + 0)
    twice = copy.deepcopy([mask, mask])
    assert twice[0] is twice[1]
    assert twice[0].padding is not mask.padding


def test_a_mask_function_that_means_something_else_is_written_out(monkeypatch):
    from flashattn import _hf_mask

    monkeypatch.setattr(
        m, "sliding_window_causal_mask_function", lambda n: m.sliding_window_overlay(n)
    )
    _hf_mask._translation_holds.cache_clear()
    assert _hf_mask._translation_holds()
    monkeypatch.setattr(m, "find_packed_sequence_indices", lambda positions: positions)
    monkeypatch.setattr(_hf_mask, "_dense", lambda rule, q, k: torch.ones(1, len(q), len(k)).bool())
    _hf_mask._translation_holds.cache_clear()
    assert not _hf_mask._translation_holds()
    mask = hf.attention_mask(**arguments("sliding"))
    assert not isinstance(mask, Mask)
    assert torch.equal(mask, m.eager_mask(**arguments("sliding")))
    monkeypatch.undo()
    _hf_mask._translation_holds.cache_clear()
    assert isinstance(hf.attention_mask(**arguments("sliding")), Mask)


def test_an_offset_may_be_a_tensor():
    meaning = Meaning(causal=True, offset=torch.tensor(3))
    mask = Mask(meaning, (1, 1, 2, 8), torch.float32, torch.device("cpu"))
    assert (plain(mask) == 0).sum(-1).flatten().tolist() == [4, 5]
