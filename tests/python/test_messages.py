"""What wrong arguments are told: by their own name, with their value and what is allowed; tensors
without memory the same as others."""

import types

import numpy as np
import pytest
import torch

import flashattn
from flashattn import flash_attn_interface as interface
from flashattn._torch import refuse_capture
from flashattn.layers.rotary import apply_rotary_emb
from test_flash_attn import normal

attention = flashattn.flash_attn_func
varlen = flashattn.flash_attn_varlen_func
with_kvcache = flashattn.flash_attn_with_kvcache


def one(dim=8, dtype=torch.float32, device="cpu", heads=2):
    return torch.ones(1, 4, heads, dim, dtype=dtype, device=device)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            dict(softmax_scale=torch.tensor(0.5)),
            TypeError,
            "softmax_scale: is Tensor; expected a num",
        ),
        (dict(softmax_scale="x"), TypeError, "softmax_scale: is str; expected a number"),
        (dict(softmax_scale=float("nan")), ValueError, "softmax_scale: is nan; it must be"),
        (dict(softmax_scale=1e39), ValueError, r"softmax_scale: is 1e\+39; it must be a finite"),
        (dict(softmax_scale=10**400), ValueError, "softmax_scale: is too large; it must"),
        (dict(window_size=(2**63, 0)), ValueError, "window_size: is 9223372036854775808;"),
        (dict(causal="yes"), TypeError, "causal: is str; expected True or False"),
        (dict(return_lse=1), TypeError, "return_lse: is int; expected True or False"),
        (dict(return_attn_probs="no"), TypeError, "return_attn_probs: is str; expected True or"),
        (dict(dropout_p=None), TypeError, "dropout_p: is None; expected a number"),
        (dict(softcap=None), TypeError, "softcap: is None; expected a number"),
        (dict(deterministic=1), TypeError, "deterministic: is int; expected True or False"),
        (dict(batch_invariant=None), TypeError, "batch_invariant: is None; expected True or False"),
        (
            dict(alibi_slopes=torch.ones(2, requires_grad=True)),
            NotImplementedError,
            "alibi_slopes: req",
        ),
    ],
)
@pytest.mark.parametrize("dim", [8, 13])
def test_options(options, error, message, dim):
    q = one(dim)
    with pytest.raises(error, match=message):
        attention(q, q, q, **options)
    if "batch_invariant" not in options:
        bounds = torch.tensor([0, 4], dtype=torch.int32)
        with pytest.raises(error, match=message):
            varlen(q[0], q[0], q[0], bounds, bounds, 4, 4, **options)


def test_numbers_of_numpy_are_numbers():
    q = one()
    expected = attention(q, q, q, softmax_scale=0.5, deterministic=True, causal=True)
    given = dict(softmax_scale=np.float32(0.5), softcap=0, dropout_p=np.float64(0))
    assert torch.equal(
        attention(q, q, q, **given, deterministic=np.True_, causal=np.True_), expected
    )
    arrays = [q.numpy()] * 3
    out = flashattn.attention(
        *arrays, scale=np.float32(0.5), causal=np.True_, deterministic=np.True_
    )
    assert np.array_equal(out, expected.numpy())
    with pytest.raises(TypeError, match="batch_invariant: is ndarray; expected True or False"):
        flashattn.attention(*arrays, batch_invariant=np.array([True]))
    with pytest.raises(TypeError, match="scale: is ndarray; expected a number"):
        flashattn.attention(*arrays, scale=np.array([1.0]))


def test_slopes_want_no_gradient_where_none_is_asked_for():
    q, slopes = one(), torch.ones(2, requires_grad=True)
    with torch.no_grad():
        attention(q, q, q, alibi_slopes=slopes)
    with pytest.raises(NotImplementedError, match="alibi_slopes: requires a gradient"):
        torch.func.grad(lambda s: attention(q, q, q, alibi_slopes=s).sum())(torch.ones(2))
    compiled = torch.compile(attention, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="alibi_slopes: requires a gradient"):
        compiled(q, q, q, alibi_slopes=slopes)


@pytest.mark.parametrize("options", [dict(softmax_scale=float("nan")), dict(causal="yes")])
def test_options_of_the_other_functions(options):
    q, (name,) = one(), options
    with pytest.raises((TypeError, ValueError), match=f"{name}: is"):
        with_kvcache(q, q, q, **options)
    given = [0.0, 0.3, True, -1, -1, 0.0, None, False]
    given[1 if name == "softmax_scale" else 2] = options[name]
    with pytest.raises((TypeError, ValueError), match=f"{name}: is"):
        interface._flash_attn_forward(q, q, q, *given)


@pytest.mark.parametrize(
    "run",
    [
        lambda q: with_kvcache(q, q, q, return_softmax_lse=1),
        lambda q: with_kvcache(q, q, q, rotary_interleaved=1),
        lambda q: flashattn.attention(q, q, q, causal="yes"),
        lambda q: flashattn.attention(q, q, q, return_lse=1),
        lambda q: flashattn.attention(*[q.numpy()] * 3, return_lse=1),
        lambda q: apply_rotary_emb(q, q[0, :, 0, :4], q[0, :, 0, :4], interleaved=1),
        lambda q: apply_rotary_emb(q, q[0, :, 0, :4], q[0, :, 0, :4], inplace=1),
    ],
)
def test_flags_are_true_or_false(run):
    with pytest.raises(TypeError, match="expected True or False"):
        run(one())


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**70])
def test_integers_that_do_not_fit_are_told_by_name(number):
    q, bounds = one(), torch.tensor([0, 4], dtype=torch.int32)
    runs = {
        "window": lambda: flashattn.attention(q, q, q, window=(-1, number)),
        "num_threads": lambda: flashattn.attention(*[q.numpy()] * 3, num_threads=number),
        "max_seqlen_q": lambda: varlen(q[0], q[0], q[0], bounds, bounds, number, 4),
        "num_splits": lambda: with_kvcache(q, q, q, num_splits=number),
        "cache_seqlens": lambda: with_kvcache(q, q, q, cache_seqlens=number),
    }
    for name, run in runs.items():
        with pytest.raises(ValueError, match=f"^{name}: is {number}; "):
            run()


def test_flags_of_a_compiler_are_flags():
    def run(q):
        return attention(q, q, q, causal=q.shape[1] > 3)

    compiled = torch.compile(run, backend="eager", fullgraph=True, dynamic=True)
    for rows in (4, 5, 3):
        q = normal(1, rows, 2, 8)
        assert torch.equal(compiled(q), run(q))


@pytest.mark.parametrize("dim", [513, 520, 600, 601])
def test_head_dim_is_told_as_it_was_given(dim):
    allowed = "allowed: 1 to 512, or 569 to 576 with 505 to 512 for v"
    with pytest.raises(ValueError, match=f"q: has head_dim {dim}; {allowed}"):
        attention(one(dim), one(dim), one(dim))
    with pytest.raises(ValueError, match=f"v: has head_dim 901; {allowed}"):
        attention(one(), one(), one(901))
    with pytest.raises(ValueError, match=f"v_cache: has head_dim 901; {allowed}"):
        with_kvcache(one(), one(), one(901))
    for given in (300, 301, 570):
        assert attention(one(given), one(given), one(min(given, 512))).shape[-1] == min(given, 512)


def test_a_shape_is_told_with_the_head_dim_that_was_given():
    with pytest.raises(ValueError, match=r"v: has the shape \[1, 3, 2, 9\]; .* = \[1, 4, 2, 9\]"):
        attention(one(13), one(13), one(9)[:, :3])


def different(device, of_q, of_k):
    """Every function, with head_dims of q and k that differ, and what it calls k."""
    q, k = one(of_q, device=device), one(of_k, device=device)
    ends = torch.tensor([0, 4], dtype=torch.int32).to(device)
    return [
        ("k", lambda: attention(q, k, q)),
        ("k", lambda: attention(q, k, k)),
        ("k", lambda: attention(q, k, q, out=torch.empty_like(q))),
        ("k", lambda: flashattn.attention(q, k, q)),
        ("k", lambda: varlen(q[0], k[0], q[0], ends, ends, 4, 4)),
        ("k", lambda: flashattn.flash_attn_kvpacked_func(q, torch.stack((k, k), 2))),
        ("k_cache", lambda: with_kvcache(q, k, q)),
        ("k_cache", lambda: with_kvcache(q, k, k, k[:, :1], k[:, :1], cache_seqlens=1)),
    ]


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("of_q", "of_k"), [(9, 15), (12, 16), (16, 12), (1, 8), (13, 4)])
def test_head_dims_that_only_padding_makes_equal(device, of_q, of_k):
    runs = different(device, of_q, of_k)
    if device == "cpu":
        q, k = one(of_q), one(of_k)
        runs.append(("k", lambda: flashattn.prepare(q, k, k)))
    for name, run in runs:
        with pytest.raises(ValueError, match=f"^{name}: .*{of_k}.*{of_q}"):
            run()
    compiled = torch.compile(attention, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=f"k: has head_dim {of_k}, but q {of_q}"):
        compiled(one(of_q), one(of_k), one(of_k))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("wrong", ["k", "dout", "out"])
def test_head_dims_of_the_gradients(device, wrong):
    dims = dict(dout=13, q=9, k=9, v=13, out=13) | {wrong: 15}
    dout, q, k, v, out = (one(dim, device=device) for dim in dims.values())
    of = ("q", 9) if wrong == "k" else ("v", 13)
    with pytest.raises(ValueError, match=f"^{wrong}: has head_dim 15, but {of[0]} {of[1]}"):
        flashattn.attention_backward(dout, q, k, v, out, statistic(device, 1, 2, 4))


def test_attention_backward_of_torch_takes_torch():
    q = one()
    with pytest.raises(TypeError, match="lse: is ndarray; expected a torch"):
        flashattn.attention_backward(q, q, q, q, q, np.zeros((1, 2, 4), np.float32))
    for n, name in enumerate(("dout", "k", "v", "out", "lse")):
        given = [q, q, q, q, q[..., 0].transpose(1, 2)]
        given[n] = None
        with pytest.raises(TypeError, match=f"{name}: is NoneType; expected a torch"):
            flashattn.attention_backward(given[0], q, *given[1:])


def test_the_cache_is_told_by_its_name():
    with pytest.raises(ValueError, match="k_cache: has 3 heads and q 2"):
        with_kvcache(one(), one(heads=3), one(heads=3))
    with pytest.raises(TypeError, match="v_cache: has dtype float16"):
        with_kvcache(one(), one(), one().half())


@pytest.mark.parametrize("dtype", [torch.bool, torch.complex64, torch.float8_e4m3fn, torch.int32])
def test_dtypes_are_refused_by_their_name_and_the_arguments(dtype):
    name = str(dtype).removeprefix("torch.")
    for device in ("cpu", "meta"):
        q, wrong = one(device=device), one(device=device).to(dtype)
        with pytest.raises(TypeError, match=f"q: has dtype {name}; allowed: float32"):
            attention(wrong, q, q)
        with pytest.raises(TypeError, match=f"v: has dtype {name}; allowed: float32"):
            attention(q, q, wrong)
        with pytest.raises(TypeError, match=f"sinks: has dtype {name}; allowed: float32"):
            attention(q, q, q, sinks=torch.ones(2, device=device).to(dtype))


def test_other_kinds_of_tensors():
    q = one()
    with pytest.raises(TypeError, match=r"q: has dtype torch\.qint8; dequantize"):
        attention(torch.quantize_per_tensor(q, 1.0, 0, torch.qint8), q, q)
    nested = torch.nested.nested_tensor([q[0], q[0, :2]])
    with pytest.raises(TypeError, match="k: is a nested tensor; flash_attn_varlen_func"):
        attention(q, nested, q)
    masked = np.ma.array(q.numpy(), mask=True)
    plain = q.numpy()
    for name, arrays in (("q", (masked, plain, plain)), ("v", (plain, plain, masked))):
        with pytest.raises(TypeError, match=f"{name}: is a masked array, whose mask would be lost"):
            flashattn.attention(*arrays)


def test_a_boolean_bias_is_a_mask():
    q, k, v = (normal(2, 5, 2, 8, seed=s).requires_grad_() for s in range(3))
    seen = normal(2, 1, 5, 5, seed=4) > 0
    seen[:, :, 2] = False  # a row that sees no key
    added = torch.where(seen, 0.0, -torch.inf)
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [t.to(dtype) for t in (q, k, v)]
        expected = attention(*inputs, bias=added.to(dtype))
        out = attention(*inputs, bias=seen)
        assert torch.equal(out, expected)
        assert not out[:, 2].any()
        assert torch.equal(
            torch.autograd.grad(out.sum(), q)[0], torch.autograd.grad(expected.sum(), q)[0]
        )
    arrays = [t.detach().numpy() for t in (q, k, v)]
    out, lse = flashattn.attention(*arrays, bias=seen.numpy(), return_lse=True)
    assert np.array_equal(out, attention(q, k, v, bias=added).detach().numpy())
    gradients = flashattn.attention_backward(out, *arrays, out, lse, bias=seen.numpy())
    assert set(gradients) == {"dq", "dk", "dv"}
    of_torch = flashattn.attention_backward(out, *arrays, out, lse, bias=seen)
    assert np.array_equal(gradients["dq"], of_torch["dq"])


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        (9, ValueError, "cache_seqlens: is 9; allowed are 0 to 4"),
        (-1, ValueError, "cache_seqlens: is -1; allowed are 0 to 4"),
        (
            torch.tensor([9], dtype=torch.int32),
            ValueError,
            "cache_seqlens: is 9; allowed are 0 to 4",
        ),
        (2.0, TypeError, "cache_seqlens: is float; expected an integer"),
        ([2], TypeError, "cache_seqlens: is list; expected an integer"),
    ],
)
def test_cache_seqlens_by_its_own_name(lengths, error, message):
    for new in ((), (one()[:, :0], one()[:, :0])):
        with pytest.raises(error, match=message):
            with_kvcache(one(), one(), one(), *new, cache_seqlens=lengths)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(seqlen_offsets=6), ValueError, "cos: has 8 positions; x reaches position 9"),
        (dict(seqlen_offsets=torch.tensor([6])), ValueError, "cos: has 8 positions; x reaches"),
        (dict(seqlen_offsets=-2), ValueError, "seqlen_offsets: leads to position -2"),
        (
            dict(seqlen_offsets=torch.tensor([-2])),
            ValueError,
            "seqlen_offsets: leads to position -2",
        ),
        (dict(seqlen_offsets=1.5), TypeError, "seqlen_offsets: is float; expected an integer"),
        (
            dict(seqlen_offsets=torch.ones(2).long()),
            ValueError,
            r"seqlen_offsets: is torch.int64 \[2\]",
        ),
        (dict(x=one().int()), TypeError, r"x: has dtype torch\.int32"),
        (dict(x=one()[0]), ValueError, r"x: has the shape \[4, 2, 8\]"),
        (dict(cos=[1.0]), TypeError, "cos: is list"),
    ],
)
def test_rotary(options, error, message):
    table = normal(8, 4)
    given = {**dict(x=one(), cos=table, sin=table), **options}
    before = given["x"].clone()
    with pytest.raises(error, match=message):
        apply_rotary_emb(**given, inplace=True)
    assert torch.equal(given["x"], before)
    with pytest.raises(TypeError, match="rotary_cos: is list"):
        with_kvcache(one(), one(), one(), one(), one(), [1.0], [1.0], cache_seqlens=0)


def told(function, device):
    try:
        function(device)
    except Exception as error:
        return type(error), str(error)
    return None


def ends(device, n=3, dtype=torch.int32):
    return torch.zeros(n, dtype=dtype, device=device)


def rows(device):
    return one(device=device)[0]


def statistic(device, *shape):
    return torch.zeros(*shape, device=device)


WRONG = {
    "heads": lambda d: attention(one(device=d), one(device=d, heads=3), one(device=d, heads=3)),
    "keys": lambda d: attention(one(device=d), one(device=d), one(device=d)[:, :3]),
    "batch": lambda d: attention(one(device=d), *[one(device=d).repeat(2, 1, 1, 1)] * 2),
    "bias": lambda d: attention(*[one(device=d)] * 3, bias=statistic(d, 1, 1, 4, 5)),
    "slopes": lambda d: attention(*[one(device=d)] * 3, alibi_slopes=statistic(d, 3)),
    "head_dim": lambda d: attention(*[one(608, device=d)] * 3),
    "float64": lambda d: attention(*[one(device=d).double()] * 3),
    "mixed": lambda d: attention(one(device=d), one(device=d).half(), one(device=d)),
    "out": lambda d: attention(*[one(device=d)] * 3, out=one(16, device=d)),
    "softcap": lambda d: attention(*[one(device=d)] * 3, softcap=-1.0),
    "dropout": lambda d: attention(*[one(device=d)] * 3, dropout_p=1.0),
    "seqused": lambda d: attention(*[one(device=d)] * 3, seqused_k=ends(d)),
    "cu_seqlens": lambda d: varlen(*[rows(d)] * 3, ends(d), ends(d, 4), 4, 4),
    "int64": lambda d: varlen(*[rows(d)] * 3, ends(d), ends(d, 3, torch.int64), 4, 4),
    "max_seqlen": lambda d: varlen(*[rows(d)] * 3, ends(d), ends(d), -1, 4),
    "lse": lambda d: flashattn.merge(
        one(device=d), statistic(d, 1, 2, 4), one(device=d), statistic(d, 1, 2, 5)
    ),
    "merged": lambda d: flashattn.merge(
        one(device=d), statistic(d, 1, 2, 4), one(16, device=d), statistic(d, 1, 2, 4)
    ),
    "half lse": lambda d: flashattn.merge(
        one(device=d), statistic(d, 1, 2, 4).half(), one(device=d), statistic(d, 1, 2, 4)
    ),
    "packed lse": lambda d: flashattn.merge(
        rows(d), statistic(d, 2, 4), rows(d), statistic(d, 2, 5)
    ),
    "new keys": lambda d: with_kvcache(
        *[one(device=d)] * 3, one(device=d)[:, :3], one(device=d)[:, :2], cache_seqlens=ends(d, 1)
    ),
    "heads of the cache": lambda d: with_kvcache(
        one(device=d, heads=3),
        *[one(device=d)] * 2,
        *[one(device=d)[:, :1]] * 2,
        cache_seqlens=ends(d, 1),
    ),
    "size of the cache": lambda d: with_kvcache(
        one(device=d).repeat(2, 1, 1, 1),
        *[one(device=d)] * 2,
        *[one(device=d)[:, :1].repeat(2, 1, 1, 1)] * 2,
        cache_seqlens=ends(d, 2),
    ),
    "gradient": lambda d: torch.ops.flashattn.backward(
        one(device=d),
        None,
        *[one(device=d)] * 4,
        statistic(d, 1, 2, 3),
        False,
        False,
        *flashattn._options.Options(),
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_tensors_without_memory_are_told_the_same(case):
    expected = told(WRONG[case], "cpu")
    assert expected is not None
    assert told(WRONG[case], "meta") == expected
    with torch._subclasses.FakeTensorMode():
        assert told(WRONG[case], "cpu") == expected


def test_what_the_host_reads_is_refused_in_a_capture(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    on_device = types.SimpleNamespace(is_cuda=True)
    with pytest.raises(RuntimeError, match="cu_seqlens: is read by the host, which a CUDA graph"):
        refuse_capture("cu_seqlens", on_device)
    refuse_capture("cu_seqlens", torch.zeros(1))
