"""The eager shortcut is taken only where nothing watches or changes what is called: everywhere else
the operators are seen, with the same values."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import flashattn
from flashattn._options import Options
from flashattn._torch import is_direct
from test_flash_attn import cumulative, normal, tensors

attention = flashattn.flash_attn_func


def plain():
    return [t.detach() for t in tensors(1, 4, 5, 2, 2, 8, 8)]


def test_what_is_plain_takes_the_shortcut():
    q = plain()[0]
    assert is_direct(q, q.requires_grad_(), torch.nn.Parameter(q), q.bfloat16())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert is_direct(q)
    with torch.inference_mode():
        assert is_direct(q, torch.ones(2))


class Wrapper(torch.Tensor):
    """A wrapper subclass, which counts the operators that reach it."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, dtype=inner.dtype, strides=inner.stride()
        )

    def __init__(self, inner):
        self.inner = inner

    seen: list = []  # noqa: RUF012

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        cls.seen.append(function)
        args, kwargs = tree_map_only(cls, lambda t: t.inner, (args, kwargs or {}))
        return tree_map_only(torch.Tensor, cls, function(*args, **kwargs))


def test_a_wrapper_subclass_sees_the_operators():
    q, k, v = (Wrapper(t) for t in plain())
    Wrapper.seen.clear()
    out, lse = attention(q, k, v, return_lse=True)
    expected = attention(*plain(), return_lse=True)
    assert isinstance(out, Wrapper)
    assert torch.equal(out.inner, expected[0])
    assert torch.equal(lse.inner, expected[1])
    flashattn.merge(out, lse, out, lse)
    cache = [Wrapper(normal(1, 9, 2, 8, seed=s)) for s in range(2)]
    filled = [t.inner.clone() for t in cache]
    lengths = torch.tensor([3], dtype=torch.int32)
    one = [t[:, :1] for t in plain()]
    stepped = flashattn.flash_attn_with_kvcache(
        Wrapper(one[0]), *cache, *map(Wrapper, one[1:]), cache_seqlens=Wrapper(lengths)
    )
    eager = flashattn.flash_attn_with_kvcache(one[0], *filled, *one[1:], cache_seqlens=lengths)
    assert torch.equal(stepped.inner, eager)
    assert torch.equal(cache[0].inner, filled[0])
    named = {str(function) for function in Wrapper.seen}
    assert {f"flashattn.{n}.default" for n in ("forward", "merge", "with_kvcache")} <= named


def test_a_mode_sees_gradients_too():
    seen = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    q, k, v = tensors(1, 4, 5, 2, 2, 8, 8)
    with Mode():
        out, _, mask = attention(q, k, v, dropout_p=0.5, return_attn_probs=True)
        out.sum().backward()
    assert mask.shape == (1, 2, 4, 5)
    for name in ("forward", "backward", "probabilities"):
        assert getattr(torch.ops.flashattn, name).default in seen
    eager = attention(*tensors(1, 4, 5, 2, 2, 8, 8))  # its forward ran before the mode
    seen.clear()
    with Mode():
        eager.sum().backward()
    assert torch.ops.flashattn.backward.default in seen


@pytest.mark.parametrize("tracing", ["real", "fake", "symbolic"])
@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_make_fx(tracing, pre_dispatch):
    def run(q, k, v):
        out, lse = attention(q, k, v, causal=True, return_lse=True)
        return flashattn.merge(out, lse, out, lse)

    graph = make_fx(run, tracing_mode=tracing, pre_dispatch=pre_dispatch)(*plain())
    assert "flashattn.forward" in graph.code
    other = [t + 1 for t in plain()]
    for a, b in zip(graph(*other), run(*other)):
        assert torch.equal(a, b)


def test_make_fx_of_gradients():
    def run(q, k, v):
        leaf = q.detach().requires_grad_()
        return torch.autograd.grad(attention(leaf, k, v).square().sum(), leaf)[0]

    graph = make_fx(run)(*plain())
    other = [t + 1 for t in plain()]
    assert torch.equal(graph(*other), run(*other))


def with_gradients():
    """(dout, q, k, v, out, lse), and the gradients."""
    inputs = plain()
    out, lse = attention(*inputs, return_lse=True)
    of = [normal(*out.shape, seed=9), *inputs, out, lse]
    return of, flashattn.attention_backward(*of)


def backward(*of):
    return tuple(flashattn.attention_backward(*of).values())


def all_equal(got, expected):
    return all(map(torch.equal, got, expected.values()))


@pytest.mark.parametrize("tracing", ["real", "fake", "symbolic"])
def test_make_fx_of_attention_backward(tracing):
    of, _ = with_gradients()
    graph = make_fx(backward, tracing_mode=tracing)(*of)
    assert "flashattn.backward" in graph.code
    other = [t + 1 for t in of]
    assert all_equal(graph(*other), flashattn.attention_backward(*other))


def test_attention_backward_under_modes_and_transforms():
    of, expected = with_gradients()
    Wrapper.seen.clear()
    assert all_equal((g.inner for g in backward(*map(Wrapper, of))), expected)
    assert torch.ops.flashattn.backward.default in Wrapper.seen
    seen = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    with Mode():
        assert all_equal(backward(*of), expected)
    assert torch.ops.flashattn.backward.default in seen
    assert all_equal(torch.func.functionalize(backward)(*of), expected)
    compiled = torch.compile(backward, fullgraph=True, backend="aot_eager")
    assert all_equal(compiled(*of), expected)
    mapped = torch.vmap(backward)(*(torch.stack((t, t)) for t in of))
    assert all_equal((g[1] for g in mapped), expected)
    negated = [torch._neg_view(-t) for t in of]
    assert all_equal(backward(*negated), expected)


def test_attention_backward_of_tensors_without_memory():
    of, expected = with_gradients()
    shapes = [g.shape for g in expected.values()]
    assert [g.shape for g in backward(*(t.to("meta") for t in of))] == shapes
    with torch._subclasses.FakeTensorMode() as mode:
        fakes = [mode.from_tensor(t) for t in of]
        assert [g.shape for g in backward(*fakes)] == shapes
    arrays = [t.numpy() for t in of]
    with pytest.raises(TypeError, match="k: is a torch tensor that is traced, transformed or not"):
        flashattn.attention_backward(*arrays[:2], of[2].to("meta"), *arrays[3:])


def test_attention_backward_is_differentiated_by_nobody():
    of, expected = with_gradients()
    leaf = of[1].clone().requires_grad_()
    assert not any(g.requires_grad for g in backward(of[0], leaf, *of[2:]))
    with pytest.raises(RuntimeError, match="double backward is not offered"):
        torch.func.grad(lambda q: backward(of[0], q, *of[2:])[0].sum())(of[1])
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(of[1], of[1])
        with pytest.raises(NotImplementedError, match="forward-mode"):
            backward(of[0], dual, *of[2:])


class Model(torch.nn.Module):
    def forward(self, q, k, v, bounds):
        out = attention(q, k, v, causal=True)
        flat = out.flatten(0, 1)
        return flashattn.attention(flat, flat, flat, cu_seqlens_q=bounds, cu_seqlens_k=bounds)


def test_export_with_dynamic_lengths():
    def inputs(batch, rows, lengths):
        return (*(normal(batch, rows, 2, 8, seed=s) for s in range(3)), cumulative(lengths))

    batch, rows, ends = (torch.export.Dim(n, min=2, max=64) for n in ("batch", "rows", "ends"))
    shape = {0: batch, 1: rows}
    exported = torch.export.export(
        Model(), inputs(2, 6, [5, 7]), dynamic_shapes=(shape, shape, shape, {0: ends})
    )
    for other in (inputs(2, 6, [5, 7]), inputs(3, 5, [1, 2, 12])):
        assert torch.equal(exported.module()(*other), Model()(*other))


def test_functionalize_and_lazy_views():
    q, k, v = plain()
    expected = attention(q, k, v)
    assert torch.equal(torch.func.functionalize(attention)(q, k, v), expected)
    negated = torch._neg_view(-q)
    assert negated.is_neg()
    assert torch.equal(attention(negated, k, v), expected)
    leaf = negated.detach().requires_grad_()
    twin = q.clone().requires_grad_()
    for t in (leaf, twin):
        attention(t, k, v).square().sum().backward()
    assert torch.equal(leaf.grad, twin.grad)
    dout = torch._neg_view(-expected)
    (gradient,) = torch.autograd.grad(attention(twin, k, v), twin, dout)
    assert torch.equal(gradient, torch.autograd.grad(attention(twin, k, v), twin, expected)[0])
    nothing = torch._efficientzerotensor(v.shape)
    assert torch.equal(attention(q, k, nothing), torch.zeros_like(expected))


def test_vmap_over_nothing():
    run = lambda q, k, v: attention(q[None], k[None], v[None], return_lse=True)  # noqa: E731
    none = [t.new_empty((0, *t.shape[1:])) for t in plain()]
    out, lse = torch.vmap(run)(*none)
    assert out.shape == (0, 1, 4, 2, 8)
    assert lse.shape == (0, 1, 2, 4)
    with pytest.raises(ValueError, match="k: has 3 heads"):
        torch.vmap(run)(none[0], none[1].new_empty((0, 5, 3, 8)), none[2])


def test_a_function_mode_sees_the_operator():
    seen = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with Mode():
        attention(*plain())
    assert any("flashattn" in name for name in seen)


@pytest.mark.parametrize("function", ["kvcache", "probabilities"])
def test_compile_fullgraph_of_what_looks_at_data(function):
    if function == "probabilities":
        run = lambda q, k, v: attention(q, k, v, dropout_p=0.5, return_attn_probs=True)  # noqa: E731
        inputs = plain()
    else:

        def run(q, k, v, k_cache, v_cache, lengths, places):
            return flashattn.flash_attn_with_kvcache(
                q, k_cache, v_cache, k, v, cache_seqlens=lengths, cache_batch_idx=places
            )

        caches = [normal(3, 12, 2, 8, seed=s) for s in range(2)]
        lengths = torch.tensor([4], dtype=torch.int32)
        inputs = [*(normal(1, 2, 2, 8, seed=s) for s in range(3)), *caches, lengths, lengths // 2]
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    here, there = ([t.clone() for t in inputs] for _ in range(2))
    got, expected = compiled(*here), run(*there)
    if function == "probabilities":
        assert got[2].shape == expected[2].shape
        assert got[2].abs().max() > 0
    else:
        assert torch.equal(got, expected)
        assert all(map(torch.equal, here, there))


def test_opcheck_of_what_looks_at_data():
    q, k, v = (normal(2, 3, 2, 8, seed=s) for s in range(3))
    caches = [normal(3, 9, 2, 8, seed=s) for s in (3, 4)]
    lengths, places = torch.tensor([2, 5], dtype=torch.int32), torch.tensor([2, 0])
    angles = normal(9, 4)
    operators = torch.ops.flashattn
    attention(q, k, v)  # registers them
    step = (q, *caches, lengths, k, v, angles.cos(), angles.sin(), False, places)
    torch.library.opcheck(operators.with_kvcache.default, (*step, *Options(causal=True)))
    lse = attention(q, k, v, return_lse=True)[1]
    given = Options(dropout_p=0.3, dropout_state=torch.tensor([3, 4]))
    torch.library.opcheck(operators.probabilities.default, (q, k, lse, *given))


def test_below_autograd_nothing_is_recorded():
    """As inside of somebody's operator, whose own gradient counts."""
    q, k, v = tensors(1, 4, 5, 2, 2, 8, 8)
    with torch._C._AutoDispatchBelowAutograd():
        assert not torch.softmax(q, -1).requires_grad
        assert not attention(q, k, v).requires_grad
        assert not flashattn.merge(q, q[..., 0].transpose(1, 2), q, q[..., 0].transpose(1, 2))[
            0
        ].requires_grad
