"""flashattn.vllm: what vLLM calls, on pages of a cache."""

import pytest
import torch

import flashattn
from flashattn import vllm


@pytest.fixture
def call():
    """A prompt beside sequences that decode, as vLLM hands them over."""
    torch.manual_seed(1)
    interleaved = torch.randn(9, 2, 16, 2, 64)  # K and V of a page side by side
    rows, used = [5, 1, 1], [37, 20, 64]
    return dict(
        q=torch.randn(sum(rows), 4, 64),
        k=interleaved[:, 0],
        v=interleaved[:, 1],
        max_seqlen_q=max(rows),
        cu_seqlens_q=torch.tensor([0, 5, 6, 7], dtype=torch.int32),
        max_seqlen_k=max(used),
        seqused_k=torch.tensor(used, dtype=torch.int32),
        block_table=torch.tensor([[8, 0, 3, 0], [1, 2, 0, 0], [4, 5, 6, 7]], dtype=torch.int32),
        causal=True,
    )


def alone(call, b):
    """Sequence b by flash_attn_func, its pages in a row."""
    begin, end = call["cu_seqlens_q"][b : b + 2].tolist()
    used = call["seqused_k"][b]
    k, v = (call[name][call["block_table"][b]].flatten(0, 1)[None, :used] for name in "kv")
    return call["q"][None, begin:end], k, v


def test_each_sequence_is_as_it_is_alone(call):
    sinks = torch.randn(4)
    out = torch.full_like(call["q"], float("nan"))
    metadata = vllm.get_scheduler_metadata(3, 5, 64, 4, 2, 64, call["seqused_k"], page_size=16)
    result, lse = vllm.flash_attn_varlen_func(
        **call,
        out=out,
        s_aux=sinks,
        window_size=[-1, -1],
        scheduler_metadata=metadata,
        num_splits=1,
        fa_version=3,
        return_softmax_lse=True,
    )
    assert result is out
    for b in range(3):
        rows = slice(*call["cu_seqlens_q"][b : b + 2].tolist())
        options = dict(causal=True, sinks=sinks, return_lse=True)
        expected, expected_lse = flashattn.flash_attn_func(*alone(call, b), **options)
        torch.testing.assert_close(out[rows], expected[0])
        torch.testing.assert_close(lse[:, rows], expected_lse[0])


def test_keys_may_be_packed(call):
    parts = [alone(call, b) for b in range(3)]
    q, k, v = (torch.cat([part[n][0] for part in parts]) for n in range(3))
    lengths = [0, *call["seqused_k"].cumsum(0).tolist()]
    cu_seqlens_k = torch.tensor(lengths, dtype=torch.int32)
    out = vllm.flash_attn_varlen_func(
        q, k, v, 5, call["cu_seqlens_q"], 64, cu_seqlens_k, causal=True, window_size=(8, 0)
    )
    assert not out.requires_grad
    for b, (q_b, k_b, v_b) in enumerate(parts):
        rows = slice(*call["cu_seqlens_q"][b : b + 2].tolist())
        expected = flashattn.flash_attn_func(q_b, k_b, v_b, causal=True, window_size=(8, 0))
        torch.testing.assert_close(out[rows], expected[0])


@pytest.mark.parametrize("name", ["q_v", "q_descale", "k_descale", "v_descale", "cp_tot_seqused_k"])
def test_refuses_by_name(call, name):
    named = "cp_world_size" if name == "cp_tot_seqused_k" else name
    with pytest.raises(NotImplementedError, match=f"^{named}: "):
        vllm.flash_attn_varlen_func(**call, **{name: torch.ones(1)})


def test_errors_name_the_argument(call):
    for spoil, error, message in [
        (dict(cp_world_size=2), NotImplementedError, "cp_world_size: "),
        (dict(return_attn_probs=True), NotImplementedError, "return_attn_probs: "),
        (dict(num_splits=1.5), TypeError, "num_splits: "),
        (dict(block_table=call["block_table"] + 9), ValueError, "block_table: is 17 for page 0"),
        (dict(seqused_k=None), ValueError, "seqused_k: is missing"),
        (dict(out=torch.zeros(7, 4, 32)), ValueError, "out: "),
    ]:
        with pytest.raises(error, match=message):
            vllm.flash_attn_varlen_func(**{**call, **spoil})
