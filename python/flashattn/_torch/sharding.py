"""DTensors: how the devices of a mesh share an operator's work, by sequences of the batch or by
heads. DTensor gathers any other placement first."""

from __future__ import annotations

import functools
import sys
from typing import Any, Literal

import torch

from .._options import NOTHING, TENSOR_KINDS, Options, TensorKind

# How one dimension of a mesh shares the work: "queries" are heads of q alone; None: not at all.
Split = Literal["batch", "heads", "queries", None]


def _sharded(tensors: dict[str, Any]) -> list[str]:
    """The names of those that are DTensors. A compiler's tensors are never looked at."""
    module = sys.modules.get("torch.distributed.tensor")
    if module is None or torch.compiler.is_compiling():
        return []
    return [name for name, t in tensors.items() if isinstance(t, module.DTensor)]


def refuse(**tensors: Any) -> None:
    """NotImplementedError, by name, for a DTensor where the work cannot be shared."""
    for name in _sharded(tensors):
        raise NotImplementedError(f"{name}: is a DTensor, which is not offered; call on to_local()")


def check(dropout_p: float, writes_out: bool = False, **tensors: Any) -> None:
    """Errors by name for arguments that an operator cannot take beside a DTensor."""
    sharded = _sharded(tensors)
    if not sharded:
        return
    if dropout_p > 0:
        raise NotImplementedError(
            "dropout_p: is not offered with DTensors: each share would drop the same; call on"
            " to_local() of q, k and v"
        )
    for name in tensors:
        if name not in sharded:
            raise ValueError(
                f"{name}: is a plain tensor, but {sharded[0]} a DTensor; distribute_tensor() makes"
                " one of it"
            )
    if writes_out:
        raise NotImplementedError("out: is not offered with DTensors")
    _register()


@functools.cache
def _register() -> None:
    from torch.distributed.tensor.experimental import register_sharding

    operators = torch.ops.flashattn
    register_sharding(operators.forward.default)(_forward)
    register_sharding(operators.backward.default)(_backward)
    register_sharding(operators.merge.default)(_merge)


def _splits(q: Any, k: Any, given: Options) -> list[Split]:
    """The splits that the shapes allow, whichever dimensions of the mesh share the work."""
    shares, heads_q, heads_k = q.mesh.size(), q.shape[-2], k.shape[-2]
    splits: list[Split] = [None]
    if given.cu_seqlens_q is None and given.page_table is None:
        splits.append("batch")
    if heads_k % shares == 0:
        splits.append("heads")
    elif heads_k == 1 and heads_q % shares == 0:
        splits.append("queries")
    return splits


def _part(t: Any, split: Split, **dims: int | None) -> Any:
    """The placement of t: cut at its dimension for this split, or whole if it has none."""
    from torch.distributed.tensor import Replicate, Shard

    if t is None:
        return None
    dim = dims.get("heads" if split == "queries" else split or "")
    return Replicate() if dim is None else Shard(dim)


def _rows(t: Any, split: Split) -> Any:
    """[batch, seqlen, heads, head_dim], lse [batch, heads, seqlen], or packed."""
    return None if t is None else _part(t, split, batch=0, heads=t.ndim - 2)


def _keys(t: Any, split: Split) -> Any:
    """The placement of k or v: whole where each share of q's heads reads the one head of k."""
    return _rows(t, None if split == "queries" else split)


def _options(given: Options, split: Split) -> Options:
    """The placement of each tensor; None for the numbers."""
    tensors = zip(TENSOR_KINDS.items(), given)
    return NOTHING._replace(**{name: _option(t, kind, split) for (name, kind), t in tensors})


def _option(t: Any, kind: TensorKind, split: Split) -> Any:
    if t is None:
        return None

    def own(dim: int | None) -> int | None:
        if dim is None or t.ndim + dim < 0 or (kind.broadcast and t.shape[dim] <= 1):
            return None
        return int(t.ndim + dim)

    return _part(t, split, batch=own(kind.batch), heads=own(kind.heads))


def _forward(q: Any, k: Any, v: Any, *options: Any) -> list[tuple[list[Any], list[Any]]]:
    given = Options._make(options)
    return [
        (
            [_rows(q, split), _part(q, split, batch=0, heads=q.ndim - 3)],
            [_rows(q, split), _keys(k, split), _keys(v, split), *_options(given, split)],
        )
        for split in _splits(q, k, given)
    ]


def _backward(
    dout: Any,
    dlse: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    lse: Any,
    needs_dbias: bool,
    needs_dsinks: bool,
    *options: Any,
) -> list[tuple[list[Any], list[Any]]]:
    given = Options._make(options)

    def share(split: Split) -> tuple[list[Any], list[Any]]:
        inputs = [_rows(dout, split), _rows(dlse, split), _rows(q, split)]
        inputs += [_keys(k, split), _keys(v, split), _rows(out, split), _rows(lse, split)]
        parts = _options(given, split)
        of_options = [
            _summed(parts.bias, split) if needs_dbias else _part(q, None),
            _summed(parts.sinks, split) if needs_dsinks else _part(q, None),
        ]
        of_keys = [_summed(_keys(t, split), split) for t in (k, v)]
        return [_rows(q, split), *of_keys, *of_options], [*inputs, None, None, *parts]

    return [share(split) for split in _splits(q, k, given)]


def _summed(placement: Any, split: Split) -> Any:
    """The gradient of a tensor that each share read whole is the sum of the shares' gradients."""
    from torch.distributed.tensor import Partial

    return Partial() if split is not None and placement.is_replicate() else placement


def _merge(out_a: Any, lse_a: Any, out_b: Any, lse_b: Any) -> list[tuple[list[Any], list[Any]]]:
    from torch.distributed.tensor import Replicate, Shard

    dims = out_a.ndim
    shares = [(Replicate(), Replicate()), (Shard(dims - 2), Shard(dims - 3))]
    shares.append((Shard(dims - 3), Shard(dims - 2)))
    if dims == 4:
        shares.append((Shard(0), Shard(0)))
    return [([out, lse], [out, lse, out, lse]) for out, lse in shares]
