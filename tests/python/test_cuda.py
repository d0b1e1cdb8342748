"""CUDA tensors: values against float64, streams, graphs, threads, memory, errors.

Needs a CUDA device (on_cuda.py); gradients have test_cuda_gradients.py."""

import contextlib
import threading

import pytest
import torch
import tvm_ffi

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
    unaligned,
)
from reference import attention, close


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
    with no_waiting():
        out = flashattn.flash_attn_with_kvcache(
            q, cache, cache, cache_seqlens=lengths, cache_batch_idx=places
        )
    chosen = cache[places.long()]
    exact = flashattn.flash_attn_with_kvcache(q, chosen, chosen, cache_seqlens=lengths)
    close(out.cpu(), exact.cpu(), out.dtype)


@pytest.mark.parametrize("page_size", [1, 16, 100])
def test_kvcache_in_pages(page_size):
    count = 600 // page_size
    q = normal(2, 3, 4, 128, dtype=torch.bfloat16)
    caches = [normal(2 * count, page_size, 2, 128, dtype=torch.bfloat16, seed=n) for n in (1, 2)]
    new = [normal(2, 3, 2, 128, dtype=torch.bfloat16, seed=n) for n in (3, 4)]
    table = int32(list(range(2 * count))).flip(0).view(2, count)
    lengths = int32([0, 597])
    host = [t.cpu() for t in (*caches, *new)]
    options = dict(causal=True)
    expected = flashattn.flash_attn_with_kvcache(
        q.cpu(), *host, cache_seqlens=lengths.cpu(), block_table=table.cpu(), **options
    )
    with no_waiting():
        out = flashattn.flash_attn_with_kvcache(
            q, *caches, *new, cache_seqlens=lengths, block_table=table, **options
        )
    close(out.cpu(), expected, out.dtype)
    for cache, host_cache in zip(caches, host):
        assert torch.equal(cache.cpu(), host_cache)


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
