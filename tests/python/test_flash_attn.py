"""flash_attn's functions: values and gradients against float64, arguments, returns."""

import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import flashattn
from flashattn import flash_attn_interface as interface
from reference import attention, close

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def normal(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def tensors(batch, rows, keys, heads, heads_k, dim, dim_v, dtype=torch.float32):
    return (
        normal(batch, rows, heads, dim, dtype=dtype, seed=1).requires_grad_(),
        normal(batch, keys, heads_k, dim, dtype=dtype, seed=2).requires_grad_(),
        normal(batch, keys, heads_k, dim_v, dtype=dtype, seed=3).requires_grad_(),
    )


@st.composite
def problems(draw):
    heads_k = draw(st.integers(1, 2))
    group = draw(st.integers(1, 3))
    batch = draw(st.integers(0, 2))
    rows, keys = draw(st.integers(0, 40)), draw(st.integers(0, 140))
    heads = heads_k * group
    options = dict(causal=draw(st.booleans()), softcap=draw(st.sampled_from([0.0, 0.0, 3.0])))
    if draw(st.booleans()):
        options["window_size"] = (draw(st.integers(-1, 30)), draw(st.integers(-1, 30)))
    if draw(st.booleans()):
        options["softmax_scale"] = draw(st.sampled_from([0.2, 0.0, -0.3]))
    if draw(st.booleans()):
        per_batch = draw(st.booleans())
        shape = (batch, heads) if per_batch else (heads,)
        options["alibi_slopes"] = normal(*shape, seed=4).abs()
    if draw(st.booleans()):
        broadcast = draw(st.tuples(*[st.booleans()] * 3))
        shape = [1 if one else n for one, n in zip(broadcast, (batch, heads, rows))]
        options["bias"] = normal(*shape, keys, seed=5).requires_grad_()
    if draw(st.booleans()):
        options["sinks"] = normal(heads, seed=6).requires_grad_()
    dims = draw(st.sampled_from([(8, 8), (16, 24), (20, 20), (13, 7), (64, 32)]))
    dtype = draw(st.sampled_from(DTYPES))
    return tensors(batch, rows, keys, heads, heads_k, *dims, dtype), options


def exactly(q, k, v, options):
    named = dict(options)
    for ours, theirs in (("scale", "softmax_scale"), ("window", "window_size")):
        if theirs in named:
            named[ours] = named.pop(theirs)
    return attention(q, k, v, **named)


@settings(deadline=None, max_examples=150)
@given(problems())
def test_values_and_gradients(problem):
    check_values_and_gradients(*problem)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", [(512, 512), (264, 264), (300, 261), (64, 512), (392, 8)])
def test_head_dims_beyond_256(dims, dtype):
    options = dict(causal=True, softcap=3.0, sinks=normal(4, seed=6).requires_grad_())
    check_values_and_gradients(tensors(2, 19, 33, 4, 2, *dims, dtype), options)
    check_values_and_gradients(tensors(1, 1, 70, 4, 2, *dims, dtype), {})


def check_values_and_gradients(inputs, options):
    q, k, v = inputs
    out, lse = flashattn.flash_attn_func(q, k, v, return_lse=True, **options)
    inputs = [q, k, v, *(options[n] for n in ("bias", "sinks") if n in options)]
    twins = {id(t): t.detach().double().requires_grad_() for t in inputs}
    twin_options = {n: twins.get(id(x), x) for n, x in options.items()}
    exact, exact_lse = exactly(*(twins[id(t)] for t in (q, k, v)), twin_options)
    close(out, exact, q.dtype)
    close(lse, exact_lse, q.dtype)
    dout, dlse = normal(*out.shape, seed=7), normal(*lse.shape, seed=8)
    dout = dout.to(q.dtype)
    finite = exact_lse.isfinite()
    loss = (exact * dout).sum() + (exact_lse.where(finite, 0) * dlse).sum()
    # A row without a key gives no gradient, whatever dout and dlse hold there.
    expected = torch.autograd.grad(loss, list(twins.values()), allow_unused=True)
    got = torch.autograd.grad((out, lse), inputs, (dout, dlse))
    for t, gradient, exact_gradient in zip(inputs, got, expected):
        no_rows = exact_gradient is None  # whose sinks stand in no sum
        close(gradient, torch.zeros_like(t) if no_rows else exact_gradient, q.dtype)


@st.composite
def packed_problems(draw):
    sequences = draw(st.integers(1, 4))
    lengths = st.lists(st.integers(0, 50), min_size=sequences, max_size=sequences)
    rows, keys = draw(lengths), draw(lengths)
    options = dict(causal=draw(st.booleans()))
    if draw(st.booleans()):
        options["window_size"] = (draw(st.integers(-1, 20)), draw(st.integers(-1, 20)))
    return rows, keys, options, draw(st.sampled_from(DTYPES)), draw(st.sampled_from([16, 20]))


def cumulative(lengths):
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)


@settings(deadline=None, max_examples=60)
@given(packed_problems())
def test_packed_sequences_are_each_alone(problem):
    rows, keys, options, dtype, dim = problem
    q = normal(sum(rows), 4, dim, dtype=dtype, seed=1).requires_grad_()
    k, v = (normal(sum(keys), 2, dim, dtype=dtype, seed=s).requires_grad_() for s in (2, 3))
    out, lse, _ = flashattn.flash_attn_varlen_func(
        q,
        k,
        v,
        cumulative(rows),
        cumulative(keys),
        max(rows),
        max(keys) + 3,
        return_attn_probs=True,
        **options,
    )
    dout = normal(*out.shape, dtype=dtype, seed=4)
    got = torch.autograd.grad(out, (q, k, v), dout)
    begin_q = begin_k = 0
    for n, m in zip(rows, keys):
        of_q, of_k = slice(begin_q, begin_q + n), slice(begin_k, begin_k + m)
        begin_q, begin_k = begin_q + n, begin_k + m
        parts = [t.detach()[s][None].requires_grad_() for t, s in ((q, of_q), (k, of_k), (v, of_k))]
        one, one_lse = flashattn.flash_attn_func(*parts, return_lse=True, **options)
        assert torch.equal(out[of_q], one[0])
        assert torch.equal(lse[:, of_q], one_lse[0])
        expected = torch.autograd.grad(one, parts, dout[of_q][None])
        for gradient, alone, part in zip(got, expected, (of_q, of_k, of_k)):
            assert torch.equal(gradient[part], alone[0])


@pytest.mark.parametrize("varlen", [False, True])
def test_packed_forms_are_the_same(varlen):
    qkv = normal(2, 10, 3, 2, 16).requires_grad_()
    q, k, v = qkv.unbind(2)
    bounds, options = torch.tensor([0, 4, 20], dtype=torch.int32), dict(causal=True)
    if varlen:
        flat, (fq, fk, fv) = qkv.flatten(0, 1), (t.flatten(0, 1) for t in (q, k, v))
        lengths = (bounds, bounds, 16, 16)
        expected = flashattn.flash_attn_varlen_func(fq, fk, fv, *lengths, **options)
        of_qkv = flashattn.flash_attn_varlen_qkvpacked_func(flat, bounds, 16, **options)
        of_kv = flashattn.flash_attn_varlen_kvpacked_func(fq, flat[:, 1:], *lengths, **options)
    else:
        expected = flashattn.flash_attn_func(q, k, v, **options)
        of_qkv = flashattn.flash_attn_qkvpacked_func(qkv, **options)
        of_kv = flashattn.flash_attn_kvpacked_func(q, qkv[:, :, 1:], **options)
    gradients = [
        torch.autograd.grad(out, qkv, torch.ones_like(out), retain_graph=True)[0]
        for out in (expected, of_qkv, of_kv)
    ]
    for out, gradient in zip((of_qkv, of_kv), gradients[1:]):
        assert torch.equal(out, expected)
        assert torch.equal(gradient, gradients[0])
    with pytest.raises(ValueError, match=r"qkv: has the shape .*expected \[batch"):
        flashattn.flash_attn_qkvpacked_func(qkv[:, :, :2])


@pytest.mark.parametrize("varlen", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout(varlen, dtype):
    q, k, v = tensors(2, 33, 70, 4, 2, 16, 16, dtype)
    p = 0.3
    torch.manual_seed(5)
    options = dict(dropout_p=p, causal=True, return_attn_probs=True)
    if varlen:
        bounds = [torch.tensor([0, n, 2 * n], dtype=torch.int32) for n in (33, 70)]
        out, lse, signed = flashattn.flash_attn_varlen_func(
            *(t.flatten(0, 1) for t in (q, k, v)), *bounds, 33, 70, **options
        )
        out, lse = out.unflatten(0, (2, 33)), lse.unflatten(1, (2, 33)).transpose(0, 1)
    else:
        out, lse, signed = flashattn.flash_attn_func(q, k, v, **options)
    keep = ~torch.signbit(signed)
    assert abs(keep.double().mean().item() - (1 - p)) < 0.02
    twins = [t.detach().double().requires_grad_() for t in (q, k, v)]
    exact, exact_lse = attention(*twins, causal=True, keep=keep, dropout_p=p)
    close(out, exact, dtype)
    close(lse, exact_lse, torch.float32 if dtype == torch.float32 else dtype)
    probabilities, _ = attention(
        *twins[:2], torch.eye(70).expand(2, 70, 70)[:, :, None].expand(2, 70, 2, 70), causal=True
    )
    close(signed.abs(), probabilities.transpose(1, 2), dtype)
    dout = normal(*out.shape, dtype=dtype, seed=9)
    expected = torch.autograd.grad(exact, twins, dout.double())
    for gradient, exact_gradient in zip(torch.autograd.grad(out, (q, k, v), dout), expected):
        close(gradient, exact_gradient, dtype)


def test_dropout_seeds_are_of_torchs_generator():
    q, k, v = tensors(1, 20, 30, 2, 2, 8, 8)
    run = lambda: flashattn.flash_attn_func(q, k, v, dropout_p=0.5)  # noqa: E731
    torch.manual_seed(3)
    first, second = run(), run()
    torch.manual_seed(3)
    assert torch.equal(run(), first)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    again = torch.utils.checkpoint.checkpoint(run, use_reentrant=False)
    assert torch.equal(again, first)
    expected = torch.autograd.grad(first.sum(), (q, k, v))
    for a, b in zip(torch.autograd.grad(again.sum(), (q, k, v)), expected):
        assert torch.equal(a, b)


def test_seqused_hides_what_lies_beyond():
    q, k, v = (t.detach() for t in tensors(2, 6, 9, 2, 2, 8, 8))
    used_q, used_k = (torch.tensor(n, dtype=torch.int32) for n in ([4, 6], [9, 5]))
    k[1, 5:] = v[1, 5:] = q[0, 4:] = torch.nan
    inputs = [t.requires_grad_() for t in (q, k, v)]
    out = flashattn.flash_attn_func(*inputs, seqused_q=used_q, seqused_k=used_k, causal=True)
    gradients = torch.autograd.grad(out, inputs, torch.ones_like(out))
    for b in range(2):
        n, m = used_q[b], used_k[b]
        exact, _ = attention(q[b : b + 1, :n], k[b : b + 1, :m], v[b : b + 1, :m], causal=True)
        close(out[b : b + 1, :n], exact, torch.float32)
        assert (out[b, n:] == 0).all()
    assert all(g.isfinite().all() for g in gradients)


def test_returns():
    q, k, v = tensors(1, 5, 6, 2, 2, 8, 16)
    out = flashattn.flash_attn_func(q, k, v)
    assert out.shape == (1, 5, 2, 16)
    full = flashattn.flash_attn_func(q, k, v, return_attn_probs=True)
    assert torch.equal(full[0], out)
    assert full[1].shape == (1, 2, 5)
    assert full[1].dtype == torch.float32
    assert full[2].numel() == 0  # as flash_attn without dropout
    with torch.no_grad():
        buffer = torch.full_like(out, torch.nan)
        assert flashattn.flash_attn_func(q, k, v, out=buffer) is buffer
        assert torch.equal(buffer, out)
        short = torch.empty(1, 5, 2, 5)
        assert flashattn.flash_attn_func(q, k, v[..., :5], out=short) is short
        assert torch.equal(short, out[..., :5])
        with pytest.raises(ValueError, match="out: is torch.float32"):
            flashattn.flash_attn_func(q, k, v[..., :5], out=torch.empty(3, 1, 5, 2, 5))
        with pytest.raises(ValueError, match="out: has the negation bit"):
            flashattn.flash_attn_func(q, k, v, out=torch._neg_view(buffer))
    weight = torch.ones_like(buffer, requires_grad=True)
    with pytest.raises(ValueError, match="out: cannot be given where gradients are wanted"):
        flashattn.flash_attn_func(*(t.detach() for t in (q, k, v)), out=weight * 2)
    product = (weight * buffer).sum()
    with torch.no_grad():
        flashattn.flash_attn_func(q, k, v, out=buffer)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()
    with pytest.raises(ValueError, match="out: cannot be given where gradients are wanted"):
        flashattn.flash_attn_func(q, k, v, out=buffer)


def test_strides():
    """Transposed, strided, expanded, negated and zero-stride gradients."""
    q, k, v = (normal(2, 2, 7, 16, seed=s).transpose(1, 2) for s in range(3))
    expected = flashattn.flash_attn_func(*(t.contiguous() for t in (q, k, v)))
    assert torch.equal(flashattn.flash_attn_func(q, k, v), expected)
    apart = torch.empty(2, 7, 2, 32)[..., ::2].copy_(q)
    assert torch.equal(flashattn.flash_attn_func(apart, k, v), expected)
    negated = torch.view_as_complex(torch.stack((q, -q), dim=-1).contiguous()).conj().imag
    assert negated.is_neg()
    assert torch.equal(flashattn.flash_attn_func(negated, k, v), expected)
    one = k[:, :1].requires_grad_()
    out = flashattn.flash_attn_func(q, one.expand(2, 7, 2, 16), v)
    (gradient,) = torch.autograd.grad(out.sum(), one)
    assert gradient.shape == one.shape
    (other,) = torch.autograd.grad(
        flashattn.flash_attn_func(q, one.expand(2, 7, 2, 16).contiguous(), v).sum(), one
    )
    assert torch.equal(gradient, other)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (dict(q=3), TypeError, "q: is int"),
        (dict(q=None), TypeError, "q: is NoneType"),
        (dict(q=torch.zeros(2, 5, 4, 8).to_sparse()), TypeError, "q: has the layout torch.sparse"),
        (dict(q=torch.zeros(())), ValueError, "q: has the shape []"),
        (dict(v=torch.zeros(2, 6)), ValueError, "v: has the shape [2, 6]"),
        (dict(k=torch.zeros(2, 6, 2, 8, dtype=torch.uint16)), TypeError, "k: has dtype uint16"),
        (dict(k=torch.zeros(2, 6, 3, 8)), ValueError, "k: has 3 heads and q 4"),
        (dict(k=torch.zeros(2, 6, 2, 16)), ValueError, "k: "),
        (dict(v=torch.zeros(2, 5, 2, 8)), ValueError, "v: "),
        (dict(q=torch.zeros(2, 5, 4, 8, dtype=torch.float64)), TypeError, "q: has dtype float64"),
        (dict(k=torch.zeros(2, 6, 2, 8).half()), TypeError, "k: has dtype float16"),
        (dict(q=torch.zeros(5, 4, 8)), ValueError, "q: "),
        (dict(q=torch.zeros(2, 5, 4, 520), k=torch.zeros(2, 6, 2, 520)), ValueError, "520"),
        (dict(dropout_p=1.0), ValueError, "dropout_p: is 1"),
        (dict(dropout_p=-0.5), ValueError, "dropout_p: is -0.5"),
        (dict(softmax_scale=float("nan")), ValueError, "scale: is nan"),
        (dict(softcap=-1.0), ValueError, "softcap: is -1"),
        (dict(window_size=3), ValueError, "window_size: is 3"),
        (dict(window_size=(1.5, 2)), TypeError, "window_size: is float"),
        (dict(family="sm70"), ValueError, "family: is 'sm70'; allowed are auto, sm80, sm90"),
        (dict(alibi_slopes=torch.zeros(3)), ValueError, "alibi_slopes: "),
        (dict(alibi_slopes=torch.zeros(4).double()), TypeError, "alibi_slopes: has dtype"),
        (dict(bias=torch.zeros(2, 4, 5, 5)), ValueError, "bias: "),
        (dict(sinks=torch.zeros(2)), ValueError, "sinks: "),
        (
            dict(sinks=torch.zeros(4, device="meta")),
            ValueError,
            "sinks: lies on meta, but q on cpu",
        ),
        (dict(out=torch.zeros(2, 5, 4, 8, device="meta")), ValueError, "out: lies on meta"),
        (dict(bias=[1.0]), TypeError, "bias: is list"),
        (dict(sinks=torch.zeros(4).to_sparse()), TypeError, "sinks: has the layout"),
        (dict(seqused_k=torch.tensor([7, 1], dtype=torch.int32)), ValueError, "seqused_k: is 7"),
        (dict(seqused_k=torch.tensor([1, 1])), TypeError, "seqused_k: has dtype int64"),
        (
            dict(q=torch.zeros(2, 5, 4, 8, device="meta")),
            ValueError,
            "k: lies on cpu, but q on meta",
        ),
    ],
)
def test_wrong_arguments(spoil, error, message):
    arguments = dict(
        q=torch.zeros(2, 5, 4, 8), k=torch.zeros(2, 6, 2, 8), v=torch.zeros(2, 6, 2, 8)
    )
    with torch.no_grad(), pytest.raises(error) as caught:
        flashattn.flash_attn_func(**{**arguments, **spoil})
    assert message in str(caught.value)


def test_wrong_varlen_arguments():
    t = torch.zeros(6, 2, 8)
    bounds = torch.tensor([0, 4, 6], dtype=torch.int32)
    run = flashattn.flash_attn_varlen_func
    with pytest.raises(ValueError, match="block_table: is torch.int32 \\[3\\]; expected int32"):
        run(t, t, t, bounds, bounds, 4, 4, block_table=bounds)
    with pytest.raises(TypeError, match="cu_seqlens_q: is list"):
        run(t, t, t, [0, 4, 6], bounds, 4, 4)
    with pytest.raises(ValueError, match="max_seqlen_q allows 3"):
        run(t, t, t, bounds, bounds, 3, 4)
    lengths = (bounds[1:] - bounds[:-1]).max()  # a tensor, as many programs have it
    assert torch.equal(
        run(t, t, t, bounds, bounds, lengths, lengths), run(t, t, t, bounds, bounds, 4, 4)
    )
    with pytest.raises(TypeError, match="max_seqlen_q: is float"):
        run(t, t, t, bounds, bounds, 4.0, 4)
    with pytest.raises(TypeError, match="cu_seqlens_k: has dtype int64"):
        run(t, t, t, bounds, bounds.long(), 4, 4)


def test_merge_of_split_keys():
    q, k, v = tensors(2, 5, 9, 4, 2, 8, 16)
    parts = [
        flashattn.flash_attn_func(q, k[:, s], v[:, s], return_lse=True)
        for s in (slice(0, 4), slice(4, 9))
    ]
    out, lse = flashattn.merge(*parts[0], *parts[1])
    whole, whole_lse = flashattn.flash_attn_func(q, k, v, return_lse=True)
    close(out, whole, torch.float32)
    close(lse, whole_lse, torch.float32)
    dout, dlse = normal(*out.shape, seed=4), normal(*lse.shape, seed=5)
    expected = torch.autograd.grad((whole, whole_lse), (q, k, v), (dout, dlse))
    for a, b in zip(torch.autograd.grad((out, lse), (q, k, v), (dout, dlse)), expected):
        close(a, b, torch.float32)
    other = torch.func.grad(
        lambda a, b: sum(x.square().sum() for x in flashattn.merge(a, b, *parts[1]))
    )
    leaves = [t.detach().requires_grad_() for t in parts[0]]
    direct = sum(x.square().sum() for x in flashattn.merge(*leaves, *parts[1]))
    close(
        other(*(t.detach() for t in parts[0])),
        torch.autograd.grad(direct, leaves)[0],
        torch.float32,
    )
    torch.library.opcheck(
        torch.ops.flashattn.merge.default,
        tuple(t.detach().requires_grad_() for part in parts for t in part),
    )


def test_signatures_of_flash_attn():
    """Of version 2.8.3: names, order and defaults."""
    tail = (
        "dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,"
        " alibi_slopes=None, deterministic=False, return_attn_probs=False"
    )
    lengths = "cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k"
    private = (
        "dropout_p, softmax_scale, causal, window_size_left, window_size_right, softcap,"
        " alibi_slopes"
    )
    defaulted = (
        "dropout_p, softmax_scale, causal, window_size_left=-1, window_size_right=-1, softcap=0.0,"
        " alibi_slopes=None, return_softmax=False, block_table=None, leftpad_k=None,"
        " seqused_k=None, zero_tensors=False"
    )
    gradients = "dout, q, k, v, out, softmax_lse, dq, dk, dv"
    expected = {
        "flash_attn_func": f"q, k, v, {tail}",
        "flash_attn_qkvpacked_func": f"qkv, {tail}",
        "flash_attn_kvpacked_func": f"q, kv, {tail}",
        "flash_attn_varlen_func": f"q, k, v, {lengths}, {tail}, block_table=None",
        "flash_attn_varlen_qkvpacked_func": f"qkv, cu_seqlens, max_seqlen, {tail}",
        "flash_attn_varlen_kvpacked_func": f"q, kv, {lengths}, {tail}",
        "flash_attn_with_kvcache": (
            "q, k_cache, v_cache, k=None, v=None, rotary_cos=None, rotary_sin=None,"
            " cache_seqlens=None, cache_batch_idx=None, cache_leftpad=None, block_table=None,"
            " softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,"
            " rotary_interleaved=True, alibi_slopes=None, num_splits=0, return_softmax_lse=False"
        ),
        "_flash_attn_forward": f"q, k, v, {private}, return_softmax",
        "_flash_attn_varlen_forward": f"q, k, v, {lengths}, {defaulted}",
        "_flash_attn_backward": f"{gradients}, {private}, deterministic, rng_state=None",
        "_flash_attn_varlen_backward": (
            f"{gradients}, {lengths}, {private}, deterministic, rng_state=None, zero_tensors=False"
        ),
        "_get_block_size_n": "device, head_dim, is_dropout, is_causal",
    }
    for name, wanted in expected.items():
        parameters = inspect.signature(getattr(interface, name)).parameters.values()
        positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        plain = [p.replace(annotation=p.empty) for p in positional]
        assert str(inspect.Signature(plain)) == f"({wanted})", name
    assert interface.USE_TRITON_ROCM is False


@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
@pytest.mark.parametrize("varlen", [False, True])
def test_private_functions(varlen, dropout_p):
    q, k, v = tensors(1, 20, 30, 4, 2, 16, 16)
    head, scale = (), 0.3
    if varlen:
        q, k, v = (t.detach()[0].requires_grad_() for t in (q, k, v))
        bounds = [torch.tensor([0, n], dtype=torch.int32) for n in (20, 30)]
        head = (*bounds, 20, 30)
    name = "_flash_attn_varlen_" if varlen else "_flash_attn_"
    window = (5, -1)
    torch.manual_seed(1)
    forward = getattr(interface, name + "forward")
    plain = [t.detach() for t in (q, k, v)]
    out, lse, signed, state = forward(
        *plain, *head, dropout_p, scale, True, *window, 0.0, None, dropout_p > 0
    )
    torch.manual_seed(1)
    public = flashattn.flash_attn_varlen_func if varlen else flashattn.flash_attn_func
    options = dict(softmax_scale=scale, causal=True, window_size=window, return_attn_probs=True)
    expected = public(q, k, v, *head, dropout_p, **options)
    for a, b in zip((out, lse, signed), expected):
        assert torch.equal(a, b)
    assert state.shape == (2,)
    dout = normal(*out.shape, seed=5)
    gradients = [torch.full_like(t, torch.nan) for t in plain]
    delta = getattr(interface, name + "backward")(
        dout,
        *plain,
        out,
        lse,
        *gradients,
        *head,
        dropout_p,
        scale,
        True,
        *window,
        0.0,
        None,
        False,
        rng_state=state,
    )
    for a, b in zip(gradients, torch.autograd.grad(expected[0], (q, k, v), dout)):
        assert torch.equal(a, b)
    assert delta.shape[-1] == 128
    if dropout_p > 0:
        with pytest.raises(ValueError, match="rng_state: is missing"):
            getattr(interface, name + "backward")(
                *(dout, *plain, out, lse, *gradients, *head, dropout_p, scale, True, *window),
                *(0.0, None, False),
            )
    close(delta[..., :20], (dout * out).sum(-1).transpose(-1, -2), torch.float32)
