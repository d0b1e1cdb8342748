"""Gradients of CUDA tensors against float64. Needs a CUDA device (on_cuda.py)."""

import pytest
import torch

import flashattn
from on_cuda import (
    DEVICE,
    DTYPES,
    HEAD_DIMS,
    LENGTHS,
    OPTIONS,
    WIDE_HEAD_DIMS,
    inputs,
    int32,
    normal,
    packed_inputs,
    prepared,  # noqa: F401
    run,
)
from reference import attention


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("deterministic", [False, True])
def test_gradients(dtype, deterministic):
    options = {"causal": True, "window_size": (90, 0), "softcap": 5.0}
    device = [t.requires_grad_() for t in inputs(dtype)]
    host = [t.detach().cpu().float().requires_grad_() for t in device]
    dout, dlse = normal(2, 150, 4, 64, dtype=dtype, seed=4), normal(2, 4, 150, seed=5)
    found = []
    for tensors, ours, dout_here, dlse_here in (
        (device, deterministic, dout, dlse),
        (host, True, dout.cpu().float(), dlse.cpu()),
    ):
        out, lse = run(*tensors, return_lse=True, deterministic=ours, **options)
        found.append(torch.autograd.grad((out, lse), tensors, (dout_here, dlse_here)))
    for gradient, exact in zip(*found, strict=True):
        assert gradient.dtype == dtype and gradient.device.type == DEVICE
        error = (gradient.cpu().double() - exact.double()).norm() / exact.double().norm()
        assert error <= (2e-2 if dtype == torch.bfloat16 else 3e-3)


def gradients(attend, leaves, dout):
    leaves = [t.detach().requires_grad_() for t in leaves]
    out = attend(*leaves)
    return torch.autograd.grad(out, leaves, dout.to(out.dtype))


def exact_gradients(leaves, dout, **options):
    """By autograd through the formulas in float64, on the CPU; leaves behind v are bias, sinks."""
    host = {n: x.cpu() if isinstance(x, torch.Tensor) else x for n, x in options.items()}
    scale, window = host.pop("softmax_scale", None), host.pop("window_size", (-1, -1))

    def attend(q, k, v, *more):
        named = dict(zip(("bias", "sinks"), more, strict=False)) if len(more) == 2 else {}
        if len(more) == 1:
            named = {"bias" if more[0].dim() == 4 else "sinks": more[0]}
        return attention(q, k, v, scale=scale, window=window, **host, **named)[0]

    return gradients(attend, [t.detach().cpu().double() for t in leaves], dout.cpu())


def near(found, exact, dtype):
    for gradient, expected in zip(found, exact, strict=True):
        assert gradient.shape == expected.shape and gradient.device.type == DEVICE
        error = (gradient.cpu().double() - expected).norm()
        assert error <= (2e-2 if dtype == torch.bfloat16 else 3e-3) * expected.norm()


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_of_every_option(name):
    options = dict(OPTIONS[name])
    more = {n: options.pop(n) for n in ("bias", "sinks") if n in options}
    leaves, dout = [*inputs(), *more.values()], normal(2, 150, 4, 64, seed=8)

    def attend(q, k, v, *rest):
        return run(q, k, v, **options, **dict(zip(more, rest, strict=True)))

    exact = exact_gradients(leaves, dout, **options)
    near(gradients(attend, leaves, dout), exact, torch.bfloat16)


@pytest.mark.parametrize("heads_k", [4, 1])
@pytest.mark.parametrize("dim, dim_v", HEAD_DIMS + WIDE_HEAD_DIMS)
def test_gradients_of_head_dims(dim, dim_v, heads_k):
    leaves = inputs(dim=dim, dim_v=dim_v, heads_k=heads_k)
    dout = normal(2, 150, 4, dim_v, seed=8)
    in_order = heads_k == 1
    found = gradients(lambda *t: run(*t, causal=True, deterministic=in_order), leaves, dout)
    near(found, exact_gradients(leaves, dout, causal=True), torch.bfloat16)


@pytest.mark.parametrize("rows, keys", LENGTHS)
def test_gradients_of_lengths(rows, keys):
    """Also where rows see no key."""
    leaves, dout = inputs(rows=rows, keys=keys), normal(2, rows, 4, 64, seed=8)
    found = gradients(lambda *t: run(*t, causal=True), leaves, dout)
    exact = exact_gradients(leaves, dout, causal=True)
    # One key: P is 1 whatever q and k are, and their gradients are what rounding leaves of 0.
    first = 2 if rows == keys == 1 else 0
    near(found[first:], exact[first:], torch.bfloat16)


def test_gradients_of_strided_tensors():
    leaves = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in inputs()]
    apart = torch.stack([normal(2, 150, 4, 64, seed=8)] * 2, dim=-1).to(leaves[0].dtype)[..., 0]
    for dout in (apart, normal(1, seed=9).expand(2, 150, 4, 64)):
        found = gradients(run, leaves, dout)
        near(found, exact_gradients(leaves, dout), torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_under_dropout(dtype):
    """Both passes drop the same."""
    leaves, dout = inputs(dtype), normal(2, 150, 4, 64, seed=8)
    options = dict(causal=True, dropout_p=0.3)
    signed = None

    def attend(q, k, v):
        nonlocal signed
        out, _, signed = run(q, k, v, return_attn_probs=True, **options)
        return out

    found = gradients(attend, leaves, dout)
    exact = exact_gradients(leaves, dout, keep=~torch.signbit(signed), **options)
    near(found, exact, dtype)


@pytest.mark.parametrize("deterministic", [False, True])
def test_gradients_of_packed_sequences(deterministic):
    tensors, bounds = packed_inputs(torch.bfloat16)
    dout = normal(*tensors[0].shape, seed=8)

    def attend(q, k, v):
        return flashattn.flash_attn_varlen_func(
            q, k, v, *bounds, 130, 210, causal=True, deterministic=deterministic
        )

    found = gradients(attend, tensors, dout)
    for of_q, of_k in zip(*(torch.stack((b[:-1], b[1:]), 1).tolist() for b in bounds)):
        alone = [slice(*of_q), slice(*of_k), slice(*of_k)]
        if of_q[0] < of_q[1] and of_k[0] < of_k[1]:
            leaves = [t[None, which] for t, which in zip(tensors, alone, strict=True)]
            exact = exact_gradients(leaves, dout[None, alone[0]], causal=True)
            near(
                [t[None, which] for t, which in zip(found, alone, strict=True)],
                exact,
                torch.bfloat16,
            )
        else:
            assert not any(t[which].any() for t, which in zip(found, alone, strict=True))


def test_gradients_under_used_lengths():
    leaves, dout = inputs(), normal(2, 150, 4, 64, seed=8)
    used = dict(seqused_q=int32([150, 33]), seqused_k=int32([70, 203]))
    found = gradients(lambda *t: run(*t, **used), leaves, dout)
    for b, (rows, keys) in enumerate(((150, 70), (33, 203))):
        counts = (rows, keys, keys)
        exact = exact_gradients(
            [t[b : b + 1, :n] for t, n in zip(leaves, counts, strict=True)], dout[b : b + 1, :rows]
        )
        near([t[b : b + 1, :n] for t, n in zip(found, counts, strict=True)], exact, torch.bfloat16)
        assert not any(t[b, n:].any() for t, n in zip(found, counts, strict=True))


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("shape", [(2, 4, 150, 203), (1, 4, 150, 203), (2, 1, 1, 203)])
def test_gradients_of_a_bias_and_of_sinks(shape, deterministic):
    device = [t.requires_grad_() for t in (*inputs(), normal(*shape, seed=6), normal(4, seed=7))]
    host = [t.detach().cpu().float().requires_grad_() for t in device]
    dout = normal(2, 150, 4, 64, seed=4)
    found = []
    for (q, k, v, bias, sinks), dout_here in ((device, dout), (host, dout.cpu().float())):
        out = flashattn.flash_attn_func(
            q, k, v, bias=bias, sinks=sinks, deterministic=deterministic
        )
        out.backward(dout_here.to(out.dtype))
        found.append([t.grad for t in (q, k, v, bias, sinks)])
    for gradient, exact in zip(*found, strict=True):
        assert gradient.shape == exact.shape and gradient.device.type == DEVICE
        error = (gradient.cpu().double() - exact.double()).norm() / exact.double().norm()
        assert error <= 2e-2


def test_compiled_gradients():
    device = [t.requires_grad_() for t in inputs()]
    attend = torch.compile(run, fullgraph=True, backend="aot_eager")
    expected, found = (
        torch.autograd.grad(f(*device, causal=True, deterministic=True).sum(), device)
        for f in (run, attend)
    )
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
