"""Attention in float64, as plain as the formulas in docs/numerics.md; gradients by autograd."""

import math

import torch


def attention(
    q,
    k,
    v,
    *,
    scale=None,
    causal=False,
    window=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    bias=None,
    sinks=None,
    keep=None,
    dropout_p=0.0,
):
    """One batch, q [B, Sq, Hq, D], in float64. Returns out, lse [B, Hq, Sq].

    keep: bool [B, Hq, Sq, Sk], what dropout keeps.
    """
    q, k, v = (t.double() for t in (q, k, v))
    group = q.shape[2] // k.shape[2]
    k, v = (t.repeat_interleave(group, dim=2) for t in (k, v))
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    s = scale * torch.einsum("bihd,bjhd->bhij", q, k)
    if softcap > 0:
        s = softcap * torch.tanh(s / softcap)
    rows, keys = s.shape[-2:]
    distance = torch.arange(keys) - torch.arange(rows)[:, None] - keys + rows
    if alibi_slopes is not None:
        slopes = alibi_slopes.double().expand(q.shape[0], -1)
        s = s - slopes[:, :, None, None] * distance.abs()
    if bias is not None:
        s = s + bias.double()
    right = 0 if causal else window[1]
    if right >= 0:
        s = s.masked_fill(distance > right, -torch.inf)
    if window[0] >= 0:
        s = s.masked_fill(distance < -window[0], -torch.inf)
    sink = torch.tensor(-torch.inf) if sinks is None else sinks.double()[None, :, None, None]
    logits = torch.cat((s, sink.expand(*s.shape[:3], 1).double()), dim=-1)
    empty = (logits == -torch.inf).all(-1)
    lse = torch.logsumexp(logits.masked_fill(empty[..., None], 0.0), dim=-1)
    p = torch.exp(s - lse[..., None])
    lse = lse.masked_fill(empty, -torch.inf)
    if keep is not None:
        p = p * keep / (1 - dropout_p)
    return torch.einsum("bhij,bjhd->bihd", p, v), lse


def close(actual, exact, dtype):
    """Within the error that docs/numerics.md allows for standard-normal inputs, which for few keys
    is one of the largest element."""
    tolerance = {torch.float32: 1e-5, torch.float16: 6e-3, torch.bfloat16: 4e-2}[dtype]
    actual, exact = actual.detach().double(), exact.detach().double()
    assert actual.shape == exact.shape
    infinite = exact.isinf()
    assert torch.equal(actual[infinite], exact[infinite])
    error = (actual - exact)[~infinite].abs()
    largest = exact[~infinite].abs().max().item() if error.numel() else 0.0
    assert not error.isnan().any()
    assert error.numel() == 0 or error.max().item() <= tolerance * max(1.0, largest)
