"""CUDA tensors: values against float64, streams, graphs, threads, memory, errors.

Needs a CUDA device; without one it is skipped, or with FA_REQUIRE_GPU=1 fails."""

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import tvm_ffi

import flashattn
from reference import attention, close

if not torch.cuda.is_available():
    if os.environ.get("FA_REQUIRE_GPU") == "1":
        raise RuntimeError("FA_REQUIRE_GPU=1, but torch finds no CUDA device")
    pytest.skip("needs a CUDA device", allow_module_level=True)

DEVICE = "cuda"
DTYPES = [torch.float16, torch.bfloat16]
run = flashattn.flash_attn_func


def normal(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype).to(DEVICE)


def inputs(dtype=torch.bfloat16, dim=64, dim_v=None, rows=150, keys=203, heads=4, heads_k=2):
    return (
        normal(2, rows, heads, dim, dtype=dtype, seed=1),
        normal(2, keys, heads_k, dim, dtype=dtype, seed=2),
        normal(2, keys, heads_k, dim_v or dim, dtype=dtype, seed=3),
    )


def int32(numbers):
    return torch.tensor(numbers, dtype=torch.int32, device=DEVICE)


def exactly(q, k, v, softmax_scale=None, window_size=(-1, -1), **options):
    """out and lse of flash_attn_func, by the formulas on the CPU."""
    host = {n: x.cpu() if isinstance(x, torch.Tensor) else x for n, x in options.items()}
    tensors = (t.detach().cpu() for t in (q, k, v))
    return attention(*tensors, scale=softmax_scale, window=window_size, **host)


def check(out, lse, exact, exact_lse, most_lse=1e-4):
    close(out.cpu(), exact, out.dtype)
    lse, empty = lse.cpu().double(), exact_lse.isinf()
    assert torch.equal(lse.isinf(), empty) and not lse.isnan().any()
    largest = exact_lse[~empty].abs().max().clamp(min=1)
    assert (lse - exact_lse)[~empty].abs().max() <= most_lse * largest


@contextlib.contextmanager
def no_waiting():
    """Whatever makes the host wait for the device is an error."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


OPTIONS = {
    "full": {},
    "causal": dict(causal=True),
    "window": dict(window_size=(30, 5)),
    "causal window": dict(causal=True, window_size=(40, -1)),
    "right window": dict(window_size=(-1, 7)),
    "scale": dict(softmax_scale=0.31),
    "scale 0": dict(softmax_scale=0.0),
    "negative scale": dict(softmax_scale=-0.2, causal=True),
    "softcap": dict(softcap=2.0, causal=True),
    "alibi": dict(alibi_slopes=normal(4, seed=4).abs()),
    "alibi of each sequence": dict(alibi_slopes=normal(2, 4, seed=4).abs(), causal=True),
    "sinks": dict(sinks=normal(4, seed=5), causal=True),
    "bias": dict(bias=normal(2, 4, 150, 203, seed=6)),
    "broadcast bias": dict(bias=normal(1, 4, 1, 203, seed=6), causal=True),
    "bias that masks": dict(bias=normal(2, 1, 150, 203, seed=6).where(normal(203) > 0, -torch.inf)),
    "all": dict(
        causal=True,
        window_size=(60, 0),
        softcap=3.0,
        alibi_slopes=normal(4, seed=4).abs(),
        sinks=normal(4, seed=5),
        bias=normal(1, 1, 150, 203, seed=6),
    ),
}


LENGTHS = [(1, 1), (1, 500), (203, 130), (64, 64), (500, 3)]
PREPARES = {"softmax_scale": "scale", "window_size": "window"}  # names of prepare's
HEAD_DIMS = [(8, 8), (40, 40), (72, 64), (96, 96), (128, 128), (192, 128), (256, 256), (20, 13)]
WIDE_HEAD_DIMS = [(264, 264), (512, 512), (300, 261), (64, 512), (512, 40)]  # forward only


def packed_inputs(dtype):
    rows, keys = [130, 0, 5, 64], [200, 9, 0, 70]
    q = normal(sum(rows) + 7, 4, 64, dtype=dtype, seed=1)  # the last tokens are of no sequence
    k, v = (normal(sum(keys) + 9, 2, 64, dtype=dtype, seed=s) for s in (2, 3))
    return (q, k, v), [int32([0, *torch.tensor(n).cumsum(0).tolist()]) for n in (rows, keys)]


def unaligned(t):
    return torch.cat((t[..., :1], t), dim=-1)[..., 1:]


@pytest.fixture(scope="module", autouse=True)
def prepared(request):
    """The kernels of most tests, compiled many at a time: one by one they take three minutes. (What
    a test has none of here it compiles itself; that of many threads wants to.)"""
    if request.session.testscollected < 20:
        return  # a chosen few compile their own
    calls = [(inputs(dtype), options) for dtype in DTYPES for options in OPTIONS.values()]
    causal = dict(causal=True)
    for dtype in DTYPES:
        calls += [(inputs(dtype, *dims), causal) for dims in HEAD_DIMS + WIDE_HEAD_DIMS]
        calls += [(inputs(dtype, dim), dict(causal=True, dropout_p=0.3)) for dim in (64, 128)]
        tensors, (of_q, of_k) = packed_inputs(dtype)
        lengths = dict(cu_seqlens_q=of_q, cu_seqlens_k=of_k, max_seqlen_q=130, max_seqlen_k=210)
        calls += [(tensors, dict(lengths, causal=on)) for on in (False, True)]
    calls += [(inputs(dim=dim), {}) for dim in (64, 128)]
    calls += [(tuple(map(unaligned, inputs(dim=dim))), {}) for dim in (64, 128)]
    calls += [(inputs(rows=rows, keys=keys), causal) for rows, keys in LENGTHS]
    calls += [(inputs(dim=20), options) for options in (causal, dict(dropout_p=0.5))]
    calls += [
        (inputs(rows=4096, keys=4096), causal),
        (inputs(dim=80), dict(softcap=2.0, causal=True)),
    ]
    used_q, used_k = int32([130, 150]), int32([203, 77])
    calls += [(inputs(), dict(seqused_q=used_q, seqused_k=used_k, causal=True))]
    calls += [
        (inputs(rows=1, keys=40), options)
        for options in (dict(dropout_p=0.5), dict(seqused_k=int32([3, 4])))
    ]
    calls += [(inputs(rows=rows, keys=300), dict(seqused_k=used_k, causal=True)) for rows in (1, 3)]

    def prepare(call):
        tensors, options = call
        flashattn.prepare(*tensors, **{PREPARES.get(n, n): x for n, x in options.items()})

    with ThreadPoolExecutor(2 * os.cpu_count()) as pool:
        list(pool.map(prepare, calls))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, dtype):
    tensors, options = inputs(dtype), OPTIONS[name]
    out, lse = run(*tensors, return_lse=True, **options)
    # The hardware's tanh is good to 11 bits.
    check(out, lse, *exactly(*tensors, **options), 1e-3 if "softcap" in options else 1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dims", HEAD_DIMS + WIDE_HEAD_DIMS)
def test_head_dims(dims, dtype):
    tensors = inputs(dtype, *dims)
    out, lse = run(*tensors, causal=True, return_lse=True)
    check(out, lse, *exactly(*tensors, causal=True))


@pytest.mark.parametrize("heads", [(1, 1), (6, 6), (6, 1), (8, 2)])
def test_groups_of_heads(heads):
    tensors = inputs(heads=heads[0], heads_k=heads[1])
    check(*run(*tensors, return_lse=True), *exactly(*tensors))


@pytest.mark.parametrize("rows, keys", LENGTHS)
def test_lengths(rows, keys):
    """Also rows that see no key: out 0, lse -inf."""
    tensors = inputs(rows=rows, keys=keys)
    out, lse = run(*tensors, causal=True, return_lse=True)
    check(out, lse, *exactly(*tensors, causal=True))


def test_nothing():
    q, k, v = inputs()
    assert run(q[:0], k[:0], v[:0]).shape == (0, 150, 4, 64)
    assert run(q[:, :0], k, v).shape == (2, 0, 4, 64)
    out, lse = run(q, k[:, :0], v[:, :0], return_lse=True)
    assert (out == 0).all() and (lse == -torch.inf).all()


@pytest.mark.parametrize("dim", [64, 128])
def test_strides(dim):
    """Heads first, packed, apart in the last extent, off the alignment of 16 bytes, expanded."""
    q, k, v = inputs(dim=dim)
    exact, _ = exactly(q, k, v)
    others = {
        "heads first": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
        "packed": lambda t: torch.stack((t, t, t), dim=2)[:, :, 1],
        "apart": lambda t: torch.stack((t, t), dim=-1)[..., 0],
        "unaligned": unaligned,
        "shifted": lambda t: torch.cat((t.new_zeros(1), t.flatten()))[1:].view(t.shape),
    }
    for other in others.values():
        close(run(*map(other, (q, k, v))).cpu(), exact, q.dtype)
    one = k[:, :, :1].expand(-1, -1, 2, -1)
    close(run(q, one, v).cpu(), exactly(q, one, v)[0], q.dtype)


def test_rows_beyond_32_bits():
    """Offsets of more than 2^31 elements."""
    rows, heads, dim = 2**31 // (64 * 128) + 200, 64, 128
    q = torch.zeros(1, rows, heads, dim, dtype=torch.bfloat16, device=DEVICE)
    k, v = (normal(1, rows, 1, dim, dtype=torch.bfloat16, seed=s) for s in (2, 3))
    q[:, -40:] = normal(1, 40, heads, dim, dtype=torch.bfloat16)
    out = run(q, k, v, causal=True, window_size=(64, 0))
    exact, _ = exactly(q[:, -40:], k[:, -200:], v[:, -200:], causal=True, window_size=(64, -1))
    close(out[:, -40:].cpu(), exact, out.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [False, True])
def test_packed_sequences(causal, dtype):
    (q, k, v), bounds = packed_inputs(dtype)
    with no_waiting():
        out, lse = flashattn.flash_attn_varlen_func(
            q, k, v, *bounds, 130, 210, causal=causal, return_lse=True
        )
    for of_q, of_k in zip(*(torch.stack((b[:-1], b[1:]), 1).tolist() for b in bounds)):
        alone = q[slice(*of_q)], k[slice(*of_k)], v[slice(*of_k)]
        if len(alone[0]) > 0:
            exact, exact_lse = exactly(*(t[None] for t in alone), causal=causal)
            close(out[slice(*of_q)].cpu(), exact[0], dtype)
            close(lse[:, slice(*of_q)].cpu(), exact_lse[0], torch.float16)


def test_packed_forms_are_the_same():
    qkv = normal(2, 100, 3, 4, 64, dtype=torch.bfloat16)
    expected = run(*qkv.unbind(2), causal=True)
    assert torch.equal(flashattn.flash_attn_qkvpacked_func(qkv, causal=True), expected)
    flat, bounds = qkv.flatten(0, 1), int32([0, 100, 200])
    out = flashattn.flash_attn_varlen_qkvpacked_func(flat, bounds, 100, causal=True)
    close(out.cpu(), expected.flatten(0, 1).cpu(), out.dtype)


def test_seqused_hides_what_lies_beyond():
    q, k, v = inputs()
    used_q, used_k = int32([130, 150]), int32([203, 77])
    k[1, 77:] = v[1, 77:] = q[0, 130:] = torch.nan
    with no_waiting():
        out = run(q, k, v, seqused_q=used_q, seqused_k=used_k, causal=True)
    for b, (n, m) in enumerate([(130, 203), (150, 77)]):
        one = slice(b, b + 1)
        exact, _ = exactly(q[one, :n], k[one, :m], v[one, :m], causal=True)
        close(out[one, :n].cpu(), exact, out.dtype)
        assert (out[b, n:] == 0).all()


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("new", [0, 1, 3])
def test_kvcache(new, rotary):
    """As on the CPU, without waiting for the device."""
    q = normal(3, max(new, 1), 4, 64, dtype=torch.bfloat16)
    caches = [normal(3, 300, 2, 64, dtype=torch.bfloat16, seed=s) for s in (1, 2)]
    added = [normal(3, new, 2, 64, dtype=torch.bfloat16, seed=s) for s in (3, 4)]
    options = dict(cache_seqlens=int32([5, 290, 0 if new else 1]), causal=True)
    if rotary and new:
        angle = torch.arange(300, device=DEVICE)[:, None] / 100 ** torch.arange(0, 1, 1 / 16).to(
            DEVICE
        )
        options.update(rotary_cos=angle.cos(), rotary_sin=angle.sin())
    host = {n: x.cpu() if isinstance(x, torch.Tensor) else x for n, x in options.items()}
    host_caches = [cache.cpu() for cache in caches]
    with no_waiting():
        out = flashattn.flash_attn_with_kvcache(
            q, *caches, *(added if new else (None, None)), **options
        )
    expected = flashattn.flash_attn_with_kvcache(
        q.cpu(), *host_caches, *(t.cpu() if new else None for t in added), **host
    )
    close(out.cpu(), expected, out.dtype)
    for cache, host_cache in zip(caches, host_caches):
        close(cache.cpu(), host_cache, cache.dtype)


def test_kvcache_by_index():
    q = normal(2, 1, 4, 64, dtype=torch.bfloat16)
    cache = normal(5, 100, 2, 64, dtype=torch.bfloat16, seed=1)
    places = int32([4, 1])
    lengths = int32([70, 100])
    out = flashattn.flash_attn_with_kvcache(
        q, cache, cache, cache_seqlens=lengths, cache_batch_idx=places
    )
    chosen = cache[places.long()]
    exact = flashattn.flash_attn_with_kvcache(q, chosen, chosen, cache_seqlens=lengths)
    close(out.cpu(), exact.cpu(), out.dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [64, 128])
def test_dropout_drops_what_the_cpu_drops(dim, dtype):
    tensors = inputs(dtype, dim)
    options = dict(causal=True, dropout_p=0.3)
    out, lse, signed = run(*tensors, return_attn_probs=True, **options)
    keep = ~torch.signbit(signed)
    assert abs(keep.double().mean().item() - 0.7) < 0.02
    check(out, lse, *exactly(*tensors, keep=keep, **options))
    state = dict(dropout_seed=2**64 - 3, dropout_offset=11)
    with no_waiting():
        out = flashattn.attention(*tensors, **options, **state)
    expected = flashattn.attention(*(t.cpu() for t in tensors), **options, **state)
    close(out.cpu(), expected, dtype)
    torch.manual_seed(3)
    with no_waiting():
        first, second = (run(*tensors, **options) for _ in range(2))
    torch.manual_seed(3)
    assert torch.equal(run(*tensors, **options), first)
    assert not torch.equal(first, second)


def test_out_is_written_and_bits_repeat():
    tensors = inputs()
    expected = run(*tensors, causal=True)
    buffer = torch.full_like(expected, torch.nan)
    assert run(*tensors, causal=True, out=buffer) is buffer
    assert torch.equal(buffer, expected)
    heads_first = torch.empty(2, 4, 150, 64, dtype=expected.dtype, device=DEVICE).transpose(1, 2)
    run(*tensors, causal=True, out=heads_first)
    close(heads_first.cpu(), expected.cpu(), expected.dtype)
    assert torch.equal(run(*tensors, causal=True), expected)
    close(run(*tensors, causal=True, family="sm80").cpu(), expected.cpu(), expected.dtype)
    assert torch.equal(flashattn.attention(*tensors, causal=True), expected)


def test_merge_of_split_keys():
    q, k, v = inputs()
    parts = [run(q, k[:, s], v[:, s], return_lse=True) for s in (slice(90), slice(90, 203))]
    check(*flashattn.merge(*parts[0], *parts[1]), *exactly(q, k, v))


def test_a_prepared_call_can_be_captured():
    """The first call of its kind, in a graph; replays read what the tensors hold by then."""
    q, k, v = inputs(dim=80)
    flashattn.prepare(q, k, v, causal=True, softcap=2.0)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, lse = run(q, k, v, causal=True, softcap=2.0, return_lse=True)
    for seed in (7, 8):
        q.copy_(normal(*q.shape, dtype=q.dtype, seed=seed))
        graph.replay()
        torch.cuda.synchronize()
        check(out, lse, *exactly(q, k, v, causal=True, softcap=2.0), 1e-3)


def test_a_graph_of_many_calls():
    """Dropout draws anew at each replay; a cache grows by lengths on the device."""
    q, k, v = inputs(rows=1, keys=40)
    lengths, new = int32([3, 17]), normal(2, 1, 2, 64, dtype=q.dtype, seed=9)

    def step():
        dropped = run(q, k, v, dropout_p=0.5)
        out = flashattn.flash_attn_with_kvcache(q, k, v, new, new, cache_seqlens=lengths)
        lengths.add_(1)
        return dropped, out

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        dropped, out = step()
    draws = []
    for turn in range(3):
        graph.replay()
        draws.append(dropped.clone())
        n = torch.tensor([3, 17]) + turn + 2  # of the call before the capture, and of this one
        for b in range(2):
            seen = q[b : b + 1], k[b : b + 1, : n[b]], v[b : b + 1, : n[b]]
            close(out[b : b + 1].cpu(), exactly(*seen)[0], out.dtype)
            assert torch.equal(k[b, n[b] - 1], new[b, 0])
    assert not torch.equal(draws[0], draws[1]) and not torch.equal(draws[1], draws[2])


def test_the_current_stream_is_used():
    """What the stream does before is slow: a call on another stream would read too early."""
    source, k, v = inputs()
    expected = run(source, k, v)
    q = torch.zeros_like(source)
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream), no_waiting():
        torch.cuda._sleep(200_000_000)
        q.copy_(source)
        out = run(q, k, v)
        flat = flashattn.flash_attn_varlen_func(
            *(t.flatten(0, 1) for t in (q, k, v)),
            *(torch.arange(0, 2 * n + 1, n, dtype=torch.int32, device=DEVICE) for n in (150, 203)),
            150,
            203,
        )
    stream.synchronize()
    assert torch.equal(out, expected)
    close(flat.cpu(), expected.flatten(0, 1).cpu(), flat.dtype)


def test_many_threads_at_once():
    """Each with a stream and a head_dim of its own, some of them compiling."""
    problems = [inputs(dim=dim) for dim in (64, 128, 48, 56)]
    expected = [exactly(*tensors, causal=True)[0] for tensors in problems]
    torch.cuda.synchronize()
    failures = []

    def work(n):
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(20):
                    out = run(*problems[n], causal=True)
                close(out.cpu(), expected[n], out.dtype)
                with pytest.raises(ValueError, match="k: has"):
                    run(problems[n][0], problems[n][1][:, :, :0], problems[n][2])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n % 4,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_compile_fullgraph():
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    bounds = int32([0, 100, 150])
    varlen = torch.compile(flashattn.flash_attn_varlen_func, fullgraph=True, backend="aot_eager")
    for dim in (64, 20):
        q, k, v = inputs(dim=dim)
        with torch.no_grad():
            close(compiled(q, k, v, causal=True).cpu(), exactly(q, k, v, causal=True)[0], q.dtype)
            packed = q[0], k[0, :150], v[0, :150], bounds, bounds, 100, 100
            expected = flashattn.flash_attn_varlen_func(*packed)
            assert torch.equal(varlen(*packed), expected)
            dropped = [compiled(q, k, v, dropout_p=0.5) for _ in range(2)]
            assert not torch.equal(*dropped)


def test_autocast():
    tensors = inputs(torch.float32)
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        out = run(*tensors)
        flashattn.prepare(*tensors)
    assert out.dtype == torch.bfloat16
    close(out.cpu(), exactly(*tensors)[0], out.dtype)


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
@pytest.mark.parametrize("dim, dim_v", HEAD_DIMS)
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


@pytest.mark.parametrize("dims", WIDE_HEAD_DIMS)
def test_gradients_of_wide_heads_are_refused_by_name(dims):
    leaves = [t.requires_grad_() for t in inputs(torch.bfloat16, *dims)]
    with pytest.raises(NotImplementedError, match="^q: has head_dim .* takes up to 256"):
        run(*leaves).sum().backward()
    assert all(t.grad is None for t in leaves)


def test_compiled_gradients():
    device = [t.requires_grad_() for t in inputs()]
    attend = torch.compile(run, fullgraph=True, backend="aot_eager")
    expected, found = (
        torch.autograd.grad(f(*device, causal=True, deterministic=True).sum(), device)
        for f in (run, attend)
    )
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_wrong_arguments():
    q, k, v = inputs()
    for t in (q.float(), q.double()):
        with pytest.raises((TypeError, NotImplementedError), match="^q: "):
            run(t, k.to(t.dtype), v.to(t.dtype))
    with pytest.raises(TypeError, match="k: has dtype float16"):
        run(q, k.half(), v)
    with pytest.raises(ValueError, match="^k: lies on "):
        run(q, k.cpu(), v)
    with pytest.raises(ValueError, match="^sinks: lies on "):
        run(q, k, v, sinks=torch.zeros(4))
    with pytest.raises(ValueError, match="^out: lies on "):
        run(q, k, v, out=torch.empty(q.shape, dtype=q.dtype))
    with pytest.raises(ValueError, match="k: has 3 heads"):
        run(q, k[:, :, :1].expand(-1, -1, 3, -1), v)
    with pytest.raises(TypeError, match=r"q: is Tensor on cuda:0; on other devices"):
        flashattn.attention(tvm_ffi.from_dlpack(q), k, v)
    assert run(q, k, v).isfinite().all()  # none of them has harmed the device


def test_memory_is_outputs_alone():
    q, k, v = inputs(rows=4096, keys=4096)
    run(q, k, v, causal=True, return_lse=True)
    torch.cuda.synchronize()

    def peak(**options):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        results = run(q, k, v, causal=True, **options)
        torch.cuda.synchronize()
        del results
        return torch.cuda.max_memory_allocated() - before

    out_bytes, lse_bytes = q.numel() * 2, 2 * 4 * 4096 * 4
    assert peak() <= out_bytes + 1024
    assert peak(return_lse=True) <= out_bytes + lse_bytes + 1024


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_another_device_than_the_current():
    q, k, v = (t.to("cuda:1") for t in inputs())
    out = run(q, k, v)
    assert out.device == q.device
    close(out.cpu(), exactly(q, k, v)[0], out.dtype)
    with pytest.raises(ValueError, match="^k: lies on "):
        run(q, k.to("cuda:0"), v)
