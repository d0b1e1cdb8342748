"""DTensors on a mesh of two processes: every way to lie gives what plain tensors give."""

import itertools
import traceback

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import flashattn
from test_flash_attn import normal


def problem(heads_k=2, options=()):
    q, k, v = normal(4, 6, 4, 8, seed=1), normal(4, 7, heads_k, 8, seed=2), normal(4, 7, heads_k, 8)
    return [q, k, v], {name: t.clone() for name, t in dict(options).items()}


OPTIONS = {
    "bias": {"bias": normal(4, 4, 6, 7, seed=4)},
    "broadcast bias": {"bias": normal(1, 1, 6, 7, seed=4)},
    "bias of heads": {"bias": normal(1, 4, 1, 7, seed=4)},
    "sinks and slopes": {"sinks": normal(4, seed=5), "alibi_slopes": normal(4, seed=6)},
    "slopes of sequences": {"alibi_slopes": normal(4, 4, seed=6)},
    "lengths": {"seqused_k": torch.tensor([7, 3, 0, 5], dtype=torch.int32)},
}


def loss_of(q, k, v, **options):
    out, lse = flashattn.flash_attn_func(q, k, v, causal=True, return_lse=True, **options)
    return out, lse, out.square().sum() + lse.where(lse != -torch.inf, 0).sin().sum()


def whole(t):
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def compare(inputs, options, place):
    """Values and gradients with tensors placed on the mesh, beside those of plain tensors."""
    names = [n for n in options if n in ("bias", "sinks")]
    plain = [t.clone().requires_grad_() for t in inputs]
    of_plain = {n: t.clone().requires_grad_(n in names) for n, t in options.items()}
    on_mesh = [place(i, t).requires_grad_() for i, t in enumerate(inputs)]
    of_mesh = {n: place(n, t).requires_grad_(n in names) for n, t in options.items()}
    results = loss_of(*plain, **of_plain), loss_of(*on_mesh, **of_mesh)
    gradients = [
        torch.autograd.grad(loss, [*leaves, *(given[n] for n in names)])
        for (_, _, loss), leaves, given in zip(results, (plain, on_mesh), (of_plain, of_mesh))
    ]
    for a, b in zip((*results[0], *gradients[0]), (*results[1], *gradients[1])):
        torch.testing.assert_close(whole(b), a.detach(), rtol=1e-5, atol=1e-5)
    return results[1][0].placements


def check_all_placements(mesh):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    ways = [Replicate(), Shard(0), Shard(1), Shard(2)]
    for way in itertools.product(ways, repeat=3):
        if len(set(way)) == 3:
            continue  # the rest is enough
        inputs, _ = problem()
        got = compare(inputs, {}, lambda i, t: distribute_tensor(t, mesh, [way[i]]))  # noqa: B023
        if way[0] == way[1] == way[2] and way[0] in (Shard(0), Shard(2)):
            assert got == (way[0],), "nothing had to be gathered"


def check_options(mesh):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    for options, way in itertools.product(OPTIONS.values(), (Replicate(), Shard(0), Shard(2))):
        place = lambda i, t: distribute_tensor(  # noqa: E731
            t,
            mesh,
            [way if isinstance(i, int) else Replicate()],  # noqa: B023
        )
        assert compare(*problem(options=options), place) == (way,)


def check_one_key_head(mesh):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    ways = [Shard(2), Replicate(), Replicate()]
    placed = compare(*problem(heads_k=1), lambda i, t: distribute_tensor(t, mesh, [ways[i]]))
    assert placed == (Shard(2),)
    # Three heads of q, one of k: no share of two is even.
    inputs = [normal(4, 5, 3, 8, seed=1), *(normal(4, 5, 1, 8, seed=s) for s in (2, 3))]
    compare(
        inputs, {}, lambda i, t: distribute_tensor(t, mesh, [Shard(2) if i == 0 else Replicate()])
    )


def check_packed_and_merge(mesh):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    bounds = torch.tensor([0, 4, 9], dtype=torch.int32)
    q, k, v = (normal(9, 4, 8, seed=s) for s in range(3))
    expected = flashattn.flash_attn_varlen_func(q, k, v, bounds, bounds, 5, 5, return_lse=True)
    for way in (Replicate(), Shard(0), Shard(1)):
        q, k, v = (distribute_tensor(t, mesh, [way]) for t in (q, k, v))
        ends = distribute_tensor(bounds, mesh, [Replicate()])
        part = flashattn.flash_attn_varlen_func(q, k, v, ends, ends, 5, 5, return_lse=True)
        for a, b in zip(part, expected):
            assert torch.equal(whole(a), b)
        joined, eager = flashattn.merge(*part, *part), flashattn.merge(*expected, *expected)
        assert joined[0].placements == part[0].placements
        for a, b in zip(joined, eager):
            assert torch.equal(whole(a), b)
        q, k, v = (whole(t) for t in (q, k, v))


def check_explicit_backward(mesh):
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    (q, k, v), _ = problem()
    out, lse = flashattn.attention(q, k, v, return_lse=True)
    expected = flashattn.attention_backward(out, q, k, v, out, lse)
    for way, of_lse in ((Replicate(), Replicate()), (Shard(0), Shard(0)), (Shard(2), Shard(1))):
        of = [distribute_tensor(t, mesh, [way]) for t in (out, q, k, v, out)]
        got = flashattn.attention_backward(*of, distribute_tensor(lse, mesh, [of_lse]))
        for name, gradient in expected.items():
            torch.testing.assert_close(whole(got[name]), gradient, rtol=1e-5, atol=1e-5)
        assert got["dq"].placements == (way,)


def check_errors(mesh):
    from torch.distributed.tensor import Replicate, distribute_tensor

    (q, k, v), _ = problem()
    q, k, v = (distribute_tensor(t, mesh, [Replicate()]) for t in (q, k, v))
    run = flashattn.flash_attn_func
    with pytest.raises(ValueError, match="k: is a plain tensor, but q a DTensor"):
        run(q, k.to_local(), v)
    with pytest.raises(ValueError, match="bias: is a plain tensor, but q a DTensor"):
        run(q, k, v, bias=torch.zeros(1, 1, 6, 7))
    with pytest.raises(NotImplementedError, match="dropout_p: is not offered with DTensors"):
        run(q, k, v, dropout_p=0.1)
    with pytest.raises(NotImplementedError, match="dropout_p: is not offered with DTensors"):
        flashattn.attention(q, k, v, dropout_p=0.1)
    with pytest.raises(NotImplementedError, match="out: is not offered with DTensors"):
        run(q, k, v, out=q)
    with pytest.raises(NotImplementedError, match="q: is a DTensor, which is not offered"):
        flashattn.flash_attn_with_kvcache(q, k, v, cache_seqlens=3)
    with pytest.raises(NotImplementedError, match="k_cache: is a DTensor, which is not offered"):
        flashattn.flash_attn_with_kvcache(q.to_local(), k, v)
    with pytest.raises(RuntimeError, match="v: has the shape"):  # torch's, around the library's
        run(q, k, v[:, :3])


CHECKS = [
    check_all_placements,
    check_options,
    check_one_key_head,
    check_packed_and_merge,
    check_explicit_backward,
    check_errors,
]


def process(rank, folder, names):
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        mesh = dist.init_device_mesh("cpu", (2,))
        for name in names:
            globals()[name](mesh)
        (folder / f"{rank}").touch()
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        dist.destroy_process_group()


def test_on_two_processes(tmp_path):
    mp.spawn(process, (tmp_path, [check.__name__ for check in CHECKS]), nprocs=2)
    assert (tmp_path / "0").exists()
    assert (tmp_path / "1").exists()
