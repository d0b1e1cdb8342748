"""The operators in torch's own machinery: compile, fakes, functorch, autocast, threads, leaks."""

import gc
import os
import threading

import pytest
import torch

import flashattn
from reference import attention, close
from test_flash_attn import normal, tensors


def rich_arguments(dtype=torch.float32):
    """q, k, v and options that need every kind of gradient."""
    q, k, v = tensors(2, 12, 20, 4, 2, 16, 24, dtype)
    bias = normal(1, 4, 12, 20, seed=5).requires_grad_()
    sinks = normal(4, seed=6).requires_grad_()
    return (q, k, v), dict(bias=bias, sinks=sinks, causal=True)


def operator_arguments(**options):
    from flashattn._options import Options

    (q, k, v), rich = rich_arguments()
    return q, k, v, *Options(**rich, **options)


@pytest.mark.parametrize("packed", [False, True])
def test_opcheck_forward(packed):
    if packed:
        from flashattn._options import Options

        bounds = torch.tensor([0, 5, 9], dtype=torch.int32)
        options = Options(
            cu_seqlens_q=bounds, cu_seqlens_k=bounds, max_seqlen_q=5, max_seqlen_k=5, scale=0.5
        )
        t = [normal(9, 2, 8, seed=s).requires_grad_() for s in range(3)]
        torch.library.opcheck(torch.ops.flashattn.forward.default, (*t, *options))
    else:
        state = torch.tensor([3, 4])
        arguments = operator_arguments(dropout_p=0.2, dropout_state=state)
        torch.library.opcheck(torch.ops.flashattn.forward.default, arguments)


def test_opcheck_forward_out():
    q, k, v, *options = (
        t.detach() if isinstance(t, torch.Tensor) else t for t in operator_arguments()
    )
    out = torch.empty(2, 12, 4, 24)
    torch.library.opcheck(torch.ops.flashattn.forward_out.default, (q, k, v, out, *options))


def test_opcheck_backward():
    q, k, v, *options = (
        t.detach() if isinstance(t, torch.Tensor) else t for t in operator_arguments()
    )
    out, lse = torch.ops.flashattn.forward(q, k, v, *options)
    for dlse, needs in ((None, False), (torch.ones_like(lse), True)):
        arguments = (torch.ones_like(out), dlse, q, k, v, out, lse, needs, needs, *options)
        torch.library.opcheck(torch.ops.flashattn.backward.default, arguments)


def test_fakes_tell_the_true_strides():
    q, k, v, *options = operator_arguments()
    q = q.detach().transpose(1, 2).contiguous().transpose(1, 2)
    real = torch.ops.flashattn.forward(q, k, v, *options)
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        fake = torch.ops.flashattn.forward(q, k, v, *options)
    for a, b in zip(real, fake):
        assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)


def loss_of(run, inputs, options):
    out, lse = run(*inputs, return_lse=True, **options)
    return out.square().sum() + lse.sin().sum()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_fullgraph(backend):
    inputs, options = rich_arguments()
    leaves = [*inputs, options["bias"], options["sinks"]]
    compiled = torch.compile(loss_of, fullgraph=True, backend=backend)
    expected = loss_of(flashattn.flash_attn_func, inputs, options)
    got = compiled(flashattn.flash_attn_func, inputs, options)
    close(got, expected, torch.float32)
    for a, b in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(expected, leaves)):
        close(a, b, torch.float32)


@pytest.mark.parametrize("dim", [16, 20])
def test_compile_other_forms(dim):
    """Dropout draws anew each call; dynamic shapes; packed; no gradients; out=; autocast."""
    run = torch.compile(
        flashattn.flash_attn_func, fullgraph=True, backend="aot_eager", dynamic=True
    )
    for rows in (5, 9):
        q, k, v = tensors(2, rows, 11, 2, 2, dim, dim)
        close(run(q, k, v, causal=True), attention(q, k, v, causal=True)[0], torch.float32)
        with torch.no_grad():
            out = torch.empty_like(q)
            assert run(q, k, v, out=out) is out
            close(out, attention(q, k, v)[0], torch.float32)
        dropped = [run(q, k, v, dropout_p=0.5) for _ in range(2)]
        assert not torch.equal(*dropped)
        torch.autograd.grad(dropped[0].sum(), (q, k, v))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert run(q, k, v).dtype == torch.bfloat16
    varlen = torch.compile(flashattn.flash_attn_varlen_func, fullgraph=True, backend="aot_eager")
    t = normal(9, 2, dim)
    bounds = torch.tensor([0, 4, 9], dtype=torch.int32)
    expected = flashattn.flash_attn_varlen_func(t, t, t, bounds, bounds, 5, 5)
    assert torch.equal(varlen(t, t, t, bounds, bounds, 5, 5), expected)
    merge = torch.compile(flashattn.merge, fullgraph=True, backend="aot_eager")
    part = flashattn.flash_attn_func(q, k, v, return_lse=True)
    for a, b in zip(merge(*part, *part), flashattn.merge(*part, *part)):
        assert torch.equal(a, b)


def test_functorch():
    q, k, v = (t.detach() for t in tensors(3, 6, 7, 2, 2, 8, 8))
    inner = lambda q, k, v: flashattn.flash_attn_func(q[None], k[None], v[None], causal=True)[0]  # noqa: E731
    expected = flashattn.flash_attn_func(q, k, v, causal=True)
    assert torch.equal(torch.vmap(inner)(q, k, v), expected)
    loss = lambda q: inner(q, k[0], v[0]).square().sum()  # noqa: E731
    leaf = q[0].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(leaf), leaf)
    assert torch.equal(torch.func.grad(loss)(q[0]), gradient)
    of_each = torch.vmap(torch.func.grad(lambda q, k, v: inner(q, k, v).square().sum()))(q, k, v)
    assert torch.equal(of_each[0], gradient)
    with pytest.raises(RuntimeError, match="double backward is not offered"):
        torch.func.grad(lambda q: torch.func.grad(loss)(q).sum())(q[0])


def test_a_tensor_that_functorch_left_behind():
    q, k, v = tensors(1, 4, 5, 2, 2, 8, 8)
    left = []
    torch.func.grad(lambda x: (left.append(x), x.sum())[1])(q.detach())
    out = flashattn.flash_attn_func(left[0], k, v)
    assert torch.equal(out, flashattn.flash_attn_func(q, k, v))
    (gradient,) = torch.autograd.grad(out.sum(), k)
    assert gradient.abs().max() > 0


def test_forward_mode_is_refused():
    q, k, v = (t.detach() for t in tensors(1, 4, 5, 2, 2, 8, 8))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(q, torch.ones_like(q))
        with pytest.raises(NotImplementedError, match="forward-mode"):
            flashattn.flash_attn_func(dual, k, v)
        assert flashattn.flash_attn_func(q, k, v).shape == q.shape


def test_batched_gradients():
    q, k, v = tensors(1, 4, 5, 2, 2, 8, 8)
    out = flashattn.flash_attn_func(q, k, v)
    douts = normal(3, *out.shape, seed=4)
    (together,) = torch.autograd.grad(out, q, douts, is_grads_batched=True, retain_graph=True)
    for dout, gradient in zip(douts, together):
        assert torch.equal(torch.autograd.grad(out, q, dout, retain_graph=True)[0], gradient)
    lse = flashattn.flash_attn_func(q, k, v, return_lse=True)[1]
    (of_lse,) = torch.autograd.grad(lse, q, torch.ones(3, *lse.shape), is_grads_batched=True)
    assert torch.equal(of_lse[0], of_lse[2])


def test_merge_of_nothing_under_functorch():
    out, nothing = torch.zeros(1, 4, 2, 8), torch.full((1, 2, 4), -torch.inf)
    run = torch.func.grad(lambda lse: flashattn.merge(out, lse, out, nothing)[0].sum())
    assert not run(nothing).isnan().any()


def test_a_subclass_and_a_mode_see_the_operator():
    seen = []

    class Watched(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return super().__torch_function__(function, types, args, kwargs or {})

    q, k, v = (t.detach() for t in tensors(1, 4, 5, 2, 2, 8, 8))
    out = flashattn.flash_attn_func(q.as_subclass(Watched), k, v)
    assert isinstance(out, Watched)
    assert any("flashattn" in name for name in seen)

    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    with Mode():
        flashattn.flash_attn_func(q, k, v)
    assert torch.ops.flashattn.forward.default in seen


def test_meta_tensors():
    q, k, v = (t.detach().to("meta") for t in tensors(1, 4, 5, 2, 2, 8, 16))
    out = flashattn.flash_attn_func(q, k, v)
    assert out.is_meta
    assert out.shape == (1, 4, 2, 16)


def test_autocast():
    q, k, v = tensors(1, 8, 9, 2, 2, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = flashattn.flash_attn_func(q, k.bfloat16(), v)
    assert out.dtype == torch.bfloat16
    close(out, attention(q, k, v)[0], torch.bfloat16)
    gradient = torch.autograd.grad(out.sum(), q)[0]
    assert gradient.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("to", [torch.float16, torch.bfloat16])
def test_autocast_casts_what_torchs_own_attention_casts(dtype, to):
    q, k, v = (t.detach() for t in tensors(1, 8, 9, 2, 2, 16, 16))
    bias, sinks = normal(1, 2, 8, 9, seed=5).to(dtype), normal(2, seed=6).to(dtype)
    heads_first = [t.transpose(1, 2) for t in (q.to(dtype), k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention
    run = flashattn.flash_attn_func
    with torch.autocast("cpu", dtype=to):
        own = expected(*heads_first, attn_mask=bias).transpose(1, 2)
        out = run(q.to(dtype), k, v, bias=bias)
        run(q.to(dtype), k, v, bias=bias, sinks=sinks)
        packed = torch.tensor([0, 8], dtype=torch.int32)
        of_packed = flashattn.flash_attn_varlen_func(
            *(t[0, :8].to(dtype) for t in (q, k, v)), packed, packed, 8, 8
        )
        step = [t[:, :1].to(dtype) for t in (q, k, v)]
        caches = [torch.zeros(1, 4, 2, 16) for _ in range(2)]
        decoded = flashattn.flash_attn_with_kvcache(step[0], *caches, *step[1:], cache_seqlens=0)
    assert out.dtype == own.dtype == of_packed.dtype == decoded.dtype == to
    close(out, own, torch.bfloat16)
    close(decoded, v[:, :1], torch.bfloat16)
    assert torch.equal(caches[1][:, :1], step[2].float())  # as exact as it was given
    for inner in ("eager", "aot_eager"):
        torch._dynamo.reset()  # the other cases count as its recompilations
        compiled = torch.compile(run, fullgraph=True, backend=inner)
        with torch.autocast("cpu", dtype=to):
            assert torch.equal(compiled(q.to(dtype), k, v, bias=bias), out)
    plain = q.double()
    with torch.autocast("cpu", dtype=to), pytest.raises(TypeError, match="q: has dtype float64"):
        run(plain, plain, plain)


def test_double_backward_is_a_clear_error():
    inputs, options = rich_arguments()
    q = inputs[0]
    out = flashattn.flash_attn_func(*inputs, **options)
    (gradient,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    close(
        gradient,
        torch.autograd.grad(flashattn.flash_attn_func(*inputs, **options).square().sum(), q)[0],
        torch.float32,
    )
    with pytest.raises(RuntimeError, match="double backward is not offered"):
        torch.autograd.grad(gradient.sum(), q)


def test_changed_inputs_are_noticed():
    q, k, v = tensors(1, 4, 5, 2, 2, 8, 8)
    slopes = torch.ones(2)
    out = flashattn.flash_attn_func(q, k, v, alibi_slopes=slopes)
    slopes.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_only_what_is_asked_gets_a_gradient():
    q, k, v = (t.detach() for t in tensors(1, 4, 5, 2, 2, 8, 8))
    v.requires_grad_()
    flashattn.flash_attn_func(q, k, v).sum().backward()
    assert q.grad is None
    assert v.grad is not None


def test_many_threads_at_once():
    q, k, v = tensors(2, 70, 130, 4, 2, 32, 32)
    expected = flashattn.flash_attn_func(q, k, v, causal=True)
    gradients = torch.autograd.grad(expected.sum(), (q, k, v))
    failures = []

    def work():
        for _ in range(20):
            out = flashattn.flash_attn_func(q, k, v, causal=True)
            got = torch.autograd.grad(out.sum(), (q, k, v))
            if not torch.equal(out, expected) or not all(map(torch.equal, got, gradients)):
                failures.append("differs")
            with pytest.raises(ValueError, match="k: has"):
                flashattn.flash_attn_func(q, k[:, :, :0], v)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def test_no_leak_over_ten_thousand_calls():
    q, k, v = tensors(1, 16, 64, 4, 2, 64, 64)
    arrays = [t.detach().numpy() for t in (q, k, v)]

    def calls(n):
        for _ in range(n):
            out, lse = flashattn.flash_attn_func(q, k, v, return_lse=True)
            torch.autograd.grad((out, lse), (q, k, v), (out, lse))
            flashattn.attention(*arrays)
            with pytest.raises(ValueError, match="k: has"):
                flashattn.flash_attn_func(q, k[:, :, :0], v)
        gc.collect()

    calls(500)
    before = resident()
    calls(10_000)
    grown = resident() - before
    assert grown < 8 << 20, f"{grown / 2**20:.1f} MiB; one call's tensors take 0.1 MiB"
