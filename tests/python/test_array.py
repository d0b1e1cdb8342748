"""attention and its gradients for NumPy arrays and other DLPack tensors."""

import array_api_strict
import ml_dtypes
import numpy as np
import pytest
import torch
import tvm_ffi

import flashattn
from reference import attention as exact_attention
from reference import close


def arrays(*shapes, dtype=np.float32):
    random = np.random.default_rng(0)
    return [random.standard_normal(shape).astype(dtype) for shape in shapes]


def inputs(dtype=np.float32, dim=16):
    return arrays((2, 9, 4, dim), (2, 13, 2, dim), (2, 13, 2, 24), dtype=dtype)


DTYPES = {
    np.float32: torch.float32,
    np.float16: torch.float16,
    ml_dtypes.bfloat16: torch.bfloat16,
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients(dtype):
    q, k, v = inputs(dtype)
    bias, sinks, slopes = arrays((1, 4, 1, 13), (4,), (4,))
    dout, dlse = arrays((2, 9, 4, 24), (2, 4, 9))
    dout = dout.astype(dtype)
    options = dict(
        causal=True,
        window=(6, None),
        softcap=4.0,
        scale=0.3,
        bias=bias,
        sinks=sinks,
        alibi_slopes=slopes,
    )
    out, lse = flashattn.attention(q, k, v, return_lse=True, **options)
    assert out.dtype == dtype
    twins = {
        name: torch.from_numpy(t.astype(np.float64)).requires_grad_()
        for name, t in dict(q=q, k=k, v=v, bias=bias, sinks=sinks).items()
    }
    exact, exact_lse = exact_attention(
        **twins,
        causal=True,
        window=(6, -1),
        softcap=4.0,
        scale=0.3,
        alibi_slopes=torch.from_numpy(slopes),
    )
    to_torch = lambda x: torch.from_numpy(x.astype(np.float64))  # noqa: E731
    close(to_torch(out), exact, DTYPES[dtype])
    close(to_torch(lse), exact_lse, DTYPES[dtype])
    gradients = flashattn.attention_backward(dout, q, k, v, out, lse, dlse=dlse, **options)
    assert set(gradients) == {"dq", "dk", "dv", "dbias", "dsinks"}
    loss = (exact * to_torch(dout)).sum() + (exact_lse * to_torch(dlse)).sum()
    for name, expected in zip(twins, torch.autograd.grad(loss, list(twins.values()))):
        assert gradients["d" + name].shape == tuple(expected.shape)
        close(to_torch(gradients["d" + name]), expected, DTYPES[dtype])


def test_dropout_is_a_function_of_its_seed():
    q, k, v = inputs()
    run = lambda **o: flashattn.attention(q, k, v, dropout_p=0.4, **o)  # noqa: E731
    first = run(dropout_seed=2**64 - 1, dropout_offset=7)
    assert np.array_equal(first, run(dropout_seed=2**64 - 1, dropout_offset=7))
    assert not np.array_equal(first, run(dropout_seed=2**64 - 1, dropout_offset=8))
    state = dict(dropout_p=0.4, dropout_seed=2**64 - 1, dropout_offset=7)
    of_torch = flashattn.attention(*map(torch.from_numpy, (q, k, v)), **state)
    assert np.array_equal(first, of_torch.numpy())
    with pytest.raises(ValueError, match="dropout_seed: is -1"):
        run(dropout_seed=-1)


def test_packed_and_used():
    q, k, v = arrays((9, 2, 8), (11, 2, 8), (11, 2, 8))
    bounds_q, bounds_k = (np.array(b, dtype=np.int32) for b in ([0, 4, 9], [0, 8, 11]))
    out = flashattn.attention(q, k, v, cu_seqlens_q=bounds_q, cu_seqlens_k=bounds_k)
    for rows, keys in ((slice(0, 4), slice(0, 8)), (slice(4, 9), slice(8, 11))):
        assert np.array_equal(
            out[rows], flashattn.attention(q[None, rows], k[None, keys], v[None, keys])[0]
        )
    used = np.array([5], dtype=np.int32)
    short = flashattn.attention(q[None], k[None], v[None], seqused_k=used)
    assert np.array_equal(short, flashattn.attention(q[None], k[None, :5], v[None, :5]))


def test_arrays_that_dlpack_or_the_library_want_otherwise():
    q, k, v = inputs()
    expected = flashattn.attention(q, k, v)
    read_only = q.copy()
    read_only.flags.writeable = False
    record = np.zeros(q.shape, dtype=[("a", np.float32), ("b", np.int8)])
    record["a"] = q
    odd = [
        read_only,
        np.asfortranarray(q),
        np.repeat(q, 2, axis=-1)[..., ::2],
        q[::-1][::-1],
        q.astype(">f4"),
        record["a"],
    ]
    for other in odd:
        assert np.array_equal(flashattn.attention(other, k, v), expected)
    out = np.empty_like(expected)
    assert flashattn.attention(q, k, v, out=out) is out
    assert np.array_equal(out, expected)
    empty = flashattn.attention(q[:0], k[:0], v[:0])
    assert empty.shape == (0, 9, 4, 24)


def test_other_producers():
    q, k, v = inputs()
    expected, lse = flashattn.attention(q, k, v, return_lse=True)
    strict = [array_api_strict.asarray(x) for x in (q, k, v)]
    out = flashattn.attention(*strict)
    assert type(out) is type(strict[0])
    assert np.array_equal(np.asarray(out), expected)
    foreign = [tvm_ffi.from_dlpack(x) for x in (q, k, v)]
    assert np.array_equal(flashattn.attention(*foreign), expected)
    mixed = flashattn.attention(q, torch.from_numpy(k), foreign[2])
    assert np.array_equal(mixed, expected)
    of_torch = [torch.from_numpy(x).requires_grad_() for x in (q, k, v)]
    result = flashattn.attention(*of_torch)
    assert np.array_equal(result.detach().numpy(), expected)
    dout = np.ones_like(expected)
    gradients = flashattn.attention_backward(dout, q, k, v, expected, lse)
    for name, gradient in zip("qkv", torch.autograd.grad(result.sum(), of_torch)):
        assert np.array_equal(gradient.numpy(), gradients["d" + name])
    of_torch = [torch.from_numpy(x) for x in (dout, q, k, v, expected, lse)]
    for name, gradient in flashattn.attention_backward(*of_torch).items():
        assert isinstance(gradient, torch.Tensor)
        assert np.array_equal(gradient.numpy(), gradients[name])


def test_prepare_checks_and_runs_nothing():
    q, k, v = inputs()
    bounds = np.array([0, 4, 9], dtype=np.int32)
    options = dict(causal=True, dropout_p=0.2, sinks=arrays((4,))[0])
    for convert in (lambda x: x, torch.from_numpy):
        given = {n: convert(x) if isinstance(x, np.ndarray) else x for n, x in options.items()}
        assert flashattn.prepare(*map(convert, (q, k, v)), **given) is None
        packed = [convert(x[0, :9]) for x in (q, k, v)]
        flashattn.prepare(*packed, cu_seqlens_q=convert(bounds), cu_seqlens_k=convert(bounds))
        with pytest.raises(ValueError, match="k: has 0 heads"):
            flashattn.prepare(convert(q), convert(k[:, :, :0]), convert(v))
        with pytest.raises(TypeError, match="colour: is no option"):
            flashattn.prepare(*map(convert, (q, k, v)), colour=1)
    flashattn.prepare(*(torch.zeros(1, 5, 2, 20) for _ in range(3)))  # padded, as in the call
    with pytest.raises(TypeError, match="only plain tensors can be prepared for"):
        flashattn.prepare(*(torch.zeros(1, 5, 2, 16, device="meta") for _ in range(3)))


def test_merge():
    q, k, v = inputs()
    parts = [
        flashattn.attention(q, k[:, s], v[:, s], return_lse=True) for s in (slice(4), slice(4, 13))
    ]
    out, lse = flashattn.merge(*parts[0], *parts[1])
    whole, whole_lse = flashattn.attention(q, k, v, return_lse=True)
    assert np.allclose(out, whole, atol=1e-5)
    assert np.allclose(lse, whole_lse, atol=1e-5)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (dict(q=[1, 2]), TypeError, "q: is list"),
        (dict(k="k"), TypeError, "k: is str"),
        (dict(v=np.zeros((2, 13, 2, 24), np.uint16)), TypeError, "v: is uint16"),
        (dict(q=np.zeros((2, 9, 4, 16))), TypeError, "q: has dtype float64"),
        (dict(k=np.zeros((2, 13, 3, 16), np.float32)), ValueError, "k: has 3 heads"),
        (dict(q=np.zeros((2, 9, 4, 12), np.float32)), ValueError, "head_dim 12"),
        (dict(window=5), ValueError, "window"),
        (dict(family="x"), ValueError, "family"),
        (dict(num_threads=-1), ValueError, "num_threads: is -1"),
        (dict(colour=1), TypeError, "colour: is no option"),
        (dict(out=np.zeros((2, 9, 4, 25), np.float32)), ValueError, "out: "),
        (dict(out=array_api_strict.zeros((2, 9, 4, 24))), TypeError, "out: is Array"),
        (dict(causal="yes"), TypeError, "causal: is"),
        (dict(window=np.array([1, 2, 3])), ValueError, "window: is"),
        (dict(dropout_state=1), TypeError, "dropout_state: is no option"),
        (
            dict(dropout_p=0.5, dropout_seed=1.5),
            TypeError,
            "dropout_seed: is float; expected an integer",
        ),
        (dict(cu_seqlens_q="abc"), TypeError, "cu_seqlens_q: is str"),
        (dict(num_threads=2**32 + 1), ValueError, "num_threads: is 4294967297"),
        (dict(q=np.array("abc")), TypeError, "q: "),
        (dict(softcap="x"), TypeError, "softcap: "),
    ],
)
def test_wrong_arguments(spoil, error, message):
    q, k, v = inputs()
    with pytest.raises(error) as caught:
        flashattn.attention(**{**dict(q=q, k=k, v=v), **spoil})
    assert message in str(caught.value)


def test_outputs_must_be_writable_and_apart():
    q, k, v = inputs()
    out = np.zeros((2, 9, 4, 24), np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out: is read-only"):
        flashattn.attention(q, k, v, out=out)
    of_torch = [torch.from_numpy(x) for x in (q, k, v)]
    with pytest.raises(TypeError, match="out: is ndarray"):
        flashattn.attention(*of_torch, out=np.zeros((2, 9, 4, 24), np.float32))
    with pytest.raises(ValueError, match="out: shares memory with"):
        flashattn.attention(q, k[..., :16], v[..., :16].copy(), out=q)
