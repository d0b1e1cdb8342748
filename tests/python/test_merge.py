"""merge where a part has seen no key."""

import pytest
import torch

import flashattn
from test_flash_attn import tensors

HELD = [torch.nan, torch.inf, -torch.inf, 3.0]


def parts(absent, held):
    """A part, and one without keys in its first row, where it holds what must not be read."""
    q, k, v = tensors(2, 5, 9, 2, 2, 8, 16)
    a, b = (
        [t.detach() for t in flashattn.flash_attn_func(q, k[:, s], v[:, s], return_lse=True)]
        for s in (slice(0, 4), slice(4, 9))
    )
    b[0][:, 0], b[1][:, :, 0] = held, absent
    return a, b


@pytest.mark.parametrize("absent", [-torch.inf, torch.inf])
@pytest.mark.parametrize("held", HELD)
def test_a_part_without_keys_is_absent(absent, held):
    a, b = parts(absent, held)
    leaves = [t.requires_grad_() for t in (*a, *b)]
    for order in (leaves, leaves[2:] + leaves[:2]):
        out, lse = flashattn.merge(*order)
        assert torch.equal(out[:, 0], a[0][:, 0])
        assert torch.equal(lse[:, :, 0], a[1][:, :, 0])
        assert out.isfinite().all()
        dout, dlse = torch.full_like(out, 2), torch.full_like(lse, 3)
        da, dlse_a, db, dlse_b = torch.autograd.grad((out, lse), leaves, (dout, dlse))
        assert torch.equal(da[:, 0], dout[:, 0])
        assert torch.equal(dlse_a[:, :, 0], dlse[:, :, 0])
        assert not db[:, 0].any()
        assert not dlse_b[:, :, 0].any()
        assert all(g.isfinite().all() for g in (da, dlse_a, db, dlse_b))


@pytest.mark.parametrize("absent", [-torch.inf, torch.inf])
def test_nor_has_it_a_gradient_under_functorch(absent):
    a, b = parts(absent, torch.nan)
    loss = lambda *parts: sum(x.square().sum() for x in flashattn.merge(*parts))  # noqa: E731
    leaves = [t.clone().requires_grad_() for t in (*a, *b)]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    got = torch.func.grad(loss, argnums=(0, 1, 2, 3))(*a, *b)
    for x, y in zip(got, expected):
        torch.testing.assert_close(x, y)


def test_two_parts_without_keys():
    nothing = torch.full((1, 2, 4), torch.inf)
    held = torch.full((1, 4, 2, 8), torch.nan)
    out, lse = flashattn.merge(held, nothing, held, -nothing)
    assert not out.any()
    assert (lse == -torch.inf).all()
