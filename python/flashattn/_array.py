"""attention, attention_backward, prepare and merge for NumPy arrays and other DLPack tensors."""

from __future__ import annotations

import sys
from typing import Any, Literal, TypedDict, TypeVar, overload

import tvm_ffi
from typing_extensions import Unpack

from . import _binding
from ._options import (
    KINDS,
    TENSORS,
    Options,
    family_number,
    flag,
    integer,
    real_number,
    scale_or_none,
    whole_number,
    window_sides,
)


class AttentionOptions(TypedDict, total=False):
    """The options of attention, attention_backward and prepare."""

    scale: float | None
    causal: bool
    window: tuple[int, int] | None
    softcap: float
    alibi_slopes: Any
    bias: Any
    sinks: Any
    dropout_p: float
    dropout_seed: int
    dropout_offset: int
    cu_seqlens_q: Any
    cu_seqlens_k: Any
    max_seqlen_q: int
    max_seqlen_k: int
    seqused_q: Any
    seqused_k: Any
    page_table: Any
    deterministic: bool
    batch_invariant: bool
    family: str
    num_threads: int


Array = TypeVar("Array")


@overload
def attention(
    q: Array,
    k: Any,
    v: Any,
    *,
    out: Any = None,
    return_lse: Literal[False] = False,
    **options: Unpack[AttentionOptions],
) -> Array: ...
@overload
def attention(
    q: Array,
    k: Any,
    v: Any,
    *,
    out: Any = None,
    return_lse: Literal[True],
    **options: Unpack[AttentionOptions],
) -> tuple[Array, Array]: ...
@overload
def attention(
    q: Array,
    k: Any,
    v: Any,
    *,
    out: Any = None,
    return_lse: bool,
    **options: Unpack[AttentionOptions],
) -> Array | tuple[Array, Array]: ...
def attention(
    q: Array,
    k: Any,
    v: Any,
    *,
    out: Any = None,
    return_lse: bool = False,
    **options: Unpack[AttentionOptions],
) -> Array | tuple[Array, Array]:
    """softmax(scale q k^T) v.

    Tensors are NumPy arrays (bfloat16 as of ml_dtypes), torch tensors, or any others that speak
    DLPack and lie in the CPU's memory. Torch tensors keep their gradients, as in flash_attn_func,
    and may lie on a CUDA device, whose current stream is used.

    Args:
        q, k, v: float16, bfloat16 or, on the CPU, float32; [B, Sq, Hq, D], [B, Sk, Hk, D],
            [B, Sk, Hk, Dv], or packed [Tq, Hq, D], [Tk, Hk, D], [Tk, Hk, Dv] with cu_seqlens. Head
            sizes are multiples of 8 up to 512 (or 576 with 512); torch tensors may have others.
        out: written in place; a NumPy array, or with torch's q a torch tensor.
        return_lse: returns (out, lse).
        scale: factor of the scores, 1 / sqrt(D) by default.
        causal: query i sees key j only if j <= i + Sk - Sq.
        window: (left, right), query i sees i + Sk - Sq - left <= j <= i + Sk - Sq + right; -1 is
            unbounded.
        softcap: scores become softcap * tanh(score / softcap); 0 is off.
        alibi_slopes: float32 [Hq] or [B, Hq], adds -slope * |i + Sk - Sq - j|.
        bias: float32 or q's dtype, [B or 1, Hq or 1, Sq or 1, Sk], added; -inf masks. Or bool, True
            where a key is seen. A row whose bias is the lowest number (finfo.min) everywhere is not
            masked: its lse loses the number of keys to rounding, so that its gradients are too
            large by this factor.
        sinks: float32 or q's dtype, [Hq], logits in the softmax's denominator only.
        dropout_p, dropout_seed, dropout_offset: whether an element is dropped depends on the two
            64-bit numbers, the element's place and p (docs/numerics.md).
        cu_seqlens_q, cu_seqlens_k: int32 [B + 1], where packed sequences begin.
        max_seqlen_q, max_seqlen_k: at least the longest packed sequence, which is the default; the
            default reads cu_seqlens on the host, which waits for a CUDA device.
        seqused_q, seqused_k: int32 [B], how many rows and keys of each sequence count.
        page_table: int32 [B, N]; k and v are pages then, [pages, page_size, Hk, D]. Key j of
            sequence b is row j % page_size of page page_table[b, j // page_size], and seqused_k
            says how many count. CPU only, without gradients.
        deterministic, batch_invariant: always so on the CPU.
        family: "auto", "sm80", "sm90": the kernels of CUDA devices.
        num_threads: 0 is the default (docs/python.md).

    Returns:
        out [B, Sq, Hq, Dv] or [Tq, Hq, Dv], of q's kind and dtype; lse float32 [B, Hq, Sq] or
        [Hq, Tq]. For a q of neither NumPy nor torch, its namespace (the array API's
        __array_namespace__) makes them, or they are NumPy arrays if it has none.

    Raises:
        ValueError, TypeError: an argument, by name.
    """
    given, return_lse = _read(q, **options), flag("return_lse", return_lse)
    if _is_torch(q):
        return _attention_of_torch(q, k, v, out, return_lse, given)
    given = given._replace(bias=_added(given.bias))
    kind = _Kind(q)
    result, lse = _new_outputs(kind, q, v)
    result = result if out is None else out
    _binding.forward(
        True,
        *_exported(q=q, k=k, v=v),
        *_exported(writable=True, out=result, lse=lse),
        *_exported_options(given),
    )
    result = kind.finished(result) if out is None else out
    return (result, kind.finished(lse)) if return_lse else result


def attention_backward(
    dout: Any,
    q: Array,
    k: Any,
    v: Any,
    out: Any,
    lse: Any,
    *,
    dlse: Any = None,
    **options: Unpack[AttentionOptions],
) -> dict[str, Array]:
    """The gradients of attention.

    Args:
        dout: the loss's gradient by out: its shape and dtype.
        q, k, v, out, lse: as passed to and returned by attention. With q of torch all are torch's.
        dlse: the loss's gradient by lse, float32, its shape.
        options: those of attention.

    Returns:
        {"dq", "dk", "dv"} and, with bias and sinks, {"dbias", "dsinks"} (not of a boolean bias):
        each of its argument's shape and dtype, and of q's kind.

    Raises:
        ValueError, TypeError: an argument, by name.
    """
    given = _read(q, **options)
    if _is_torch(q):
        from ._torch import backward as backward_of_torch

        run: Any = backward_of_torch
        return run(dout, q, k, v, out, lse, dlse, given)
    added = _added(given.bias)
    mask_alone = added is not given.bias
    given = given._replace(bias=added)
    kind = _Kind(q)
    of = dict(dq=q, dk=k, dv=v, dbias=None if mask_alone else added, dsinks=given.sinks)
    gradients = {
        name: None if argument is None else kind.empty(*kind.shape_and_dtype(name[1:], argument))
        for name, argument in of.items()
    }
    dbias, dsinks = gradients.pop("dbias"), gradients.pop("dsinks")
    _binding.backward(
        True,
        *_exported(dout=dout, q=q, k=k, v=v, out=out, lse=lse),
        *_exported(writable=True, **gradients),
        *_exported(dlse=dlse),
        *_exported(writable=True, dbias=dbias, dsinks=dsinks),
        *_exported_options(given),
    )
    gradients.update(dbias=dbias, dsinks=dsinks)
    return {name: kind.finished(g) for name, g in gradients.items() if g is not None}


def prepare(q: Any, k: Any, v: Any, **options: Unpack[AttentionOptions]) -> None:
    """Compiles and loads the CUDA kernels that attention and flash_attn's functions need for such
    tensors and options. It runs nothing. The first call is then fast and may be captured in a CUDA
    graph. On the CPU there is nothing to do.

    Arguments as attention's; only shapes, strides, dtypes and the device of tensors matter. For
    flash_attn_with_kvcache: prepare(q, k_cache, v_cache, seqused_k=its lengths, ...).
    """
    given = _read(q, **options)
    if _is_torch(q):
        from ._torch import prepare as prepare_of_torch

        prepare_of_torch(q, k, v, given)
        return
    given = given._replace(bias=_added(given.bias))
    out, lse = _new_outputs(_Kind(q), q, v)
    _binding.prepare(
        True,
        *_exported(q=q, k=k, v=v),
        *_exported(writable=True, out=out, lse=lse),
        *_exported_options(given),
    )


def merge(out_a: Array, lse_a: Array, out_b: Array, lse_b: Array) -> tuple[Array, Array]:
    """Joins two attentions of the same queries over disjoint keys (ring attention, splits):

        lse = log(exp(lse_a) + exp(lse_b)),  out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b.

    Shapes as attention's out and lse. Torch tensors keep their gradients.
    """
    if _is_torch(out_a):
        from ._torch import merge as merge_of_torch

        run: Any = merge_of_torch
        return run(out_a, lse_a, out_b, lse_b)
    kind = _Kind(out_a)
    out = kind.empty(*kind.shape_and_dtype("out_a", out_a))
    lse = kind.empty(kind.shape_and_dtype("lse_a", lse_a)[0], "float32")
    _binding.merge(
        True,
        *_exported(out_a=out_a, lse_a=lse_a, out_b=out_b, lse_b=lse_b),
        *_exported(writable=True, out=out, lse=lse),
    )
    return kind.finished(out), kind.finished(lse)


def _attention_of_torch(q: Any, k: Any, v: Any, out: Any, return_lse: bool, given: Options) -> Any:
    from ._torch import attend, need_tensors

    if out is not None:
        need_tensors(out=out)
    result, lse, _ = attend(q, k, v, out, given)
    return (result, lse) if return_lse else result


_FLAGS = tuple(name for name, kind in KINDS.items() if kind is bool)


def _read(
    q: Any,
    *,
    scale: float | None = None,
    window: tuple[int, int] | None = None,
    family: str = "auto",
    softcap: float = 0.0,
    dropout_p: float = 0.0,
    dropout_seed: int = 0,
    dropout_offset: int = 0,
    cu_seqlens_q: Any = None,
    cu_seqlens_k: Any = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    num_threads: int = 0,
    **others: Any,
) -> Options:
    """The options as Options, with the tensors as they were given."""
    unknown = sorted(set(others) - set(AttentionOptions.__annotations__))
    if unknown:
        raise TypeError(f"{unknown[0]}: is no option of attention")
    left, right = window_sides(window, "window")
    dropout_p, softcap = real_number("dropout_p", dropout_p), real_number("softcap", softcap)
    others.update((name, flag(name, others[name])) for name in _FLAGS if name in others)
    seed = integer("dropout_seed", dropout_seed)
    offset = integer("dropout_offset", dropout_offset)
    state = _dropout_state(q, seed, offset) if dropout_p != 0 else None
    return Options(
        scale=scale_or_none("scale", scale),
        window_left=left,
        window_right=right,
        family=family_number(family),
        softcap=softcap,
        dropout_p=dropout_p,
        dropout_state=state,
        cu_seqlens_q=cu_seqlens_q,
        cu_seqlens_k=cu_seqlens_k,
        max_seqlen_q=_longest("q", cu_seqlens_q, max_seqlen_q),
        max_seqlen_k=_longest("k", cu_seqlens_k, max_seqlen_k),
        num_threads=whole_number("num_threads", num_threads),
        **others,
    )


def _numpy() -> Any:
    try:
        import numpy
    except ImportError:
        raise ImportError("flashattn.attention needs NumPy for all but torch tensors") from None
    return numpy


def _dropout_state(q: Any, seed: int, offset: int) -> Any:
    """int64 [2] of q's kind."""
    numbers = []
    for name, number in (("dropout_seed", seed), ("dropout_offset", offset)):
        if not 0 <= number < 2**64:
            raise ValueError(f"{name}: is {number}; allowed are 0 to 2**64 - 1")
        numbers.append(number - 2**64 if number >= 2**63 else number)
    if _is_torch(q):
        import torch

        # Filled on the device, because a copy of the host's numbers would wait for the device.
        state = torch.full((2,), numbers[0], dtype=torch.int64, device=q.device)
        state[1].fill_(numbers[1])
        return state
    return _numpy().array(numbers, dtype="int64")


def _added(bias: Any) -> Any:
    """A boolean bias, True where a key is seen, as a bias to add: 0 and -inf."""
    if _is_torch(bias):
        from ._torch import added

        return added(bias)
    if _is_numpy(bias) and bias.dtype == bool:
        np = _numpy()
        return np.where(bias, np.float32(0), np.float32(-np.inf))
    return bias


def _longest(side: str, cu_seqlens: Any, given: int | None) -> int | None:
    """max_seqlen, by default the longest packed sequence. The library checks the rest."""
    if given is not None:
        return whole_number(f"max_seqlen_{side}", given)
    if cu_seqlens is None:
        return 0
    if _is_torch(cu_seqlens):
        from ._torch import longest

        return longest(cu_seqlens)
    bounds = _numpy().asarray(cu_seqlens)
    if bounds.dtype.kind not in "iu":
        raise TypeError(
            f"cu_seqlens_{side}: is {type(cu_seqlens).__name__}; expected an int32 array"
        )
    if len(bounds.shape) != 1 or bounds.shape[0] < 2:
        return 0
    return max(0, int((bounds[1:] - bounds[:-1]).max()))


def _is_torch(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _is_numpy(x: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(x, numpy.ndarray)


class _Kind:
    """Makes outputs of the same kind as an input that is not a torch tensor."""

    def __init__(self, example: Any) -> None:
        self._namespace = None
        if not _is_numpy(example):
            self._namespace = getattr(example, "__array_namespace__", lambda: None)()

    def shape_and_dtype(self, name: str, x: Any) -> tuple[tuple[int, ...], str]:
        if _is_torch(x):
            return tuple(x.shape), str(x.dtype).removeprefix("torch.")
        if _is_numpy(x):
            return x.shape, x.dtype.name
        t = _from_dlpack(name, x)
        return tuple(t.shape), str(t.dtype)

    def empty(self, shape: tuple[int, ...], dtype: str) -> Any:
        np = _numpy()
        if dtype == "bfloat16":
            import ml_dtypes

            return np.empty(shape, dtype=ml_dtypes.bfloat16)
        try:
            return np.empty(shape, dtype=dtype)
        except TypeError:
            raise TypeError(f"q: has dtype {dtype}; allowed: float32, float16, bfloat16") from None

    def finished(self, x: Any) -> Any:
        return x if self._namespace is None else self._namespace.asarray(x)


def _new_outputs(kind: _Kind, q: Any, v: Any) -> tuple[Any, Any]:
    """attention's out and lse."""
    shape, dtype = kind.shape_and_dtype("q", q)
    value_shape, _ = kind.shape_and_dtype("v", v)
    out = kind.empty((*shape[:-1], *value_shape[-1:]), dtype)
    return out, kind.empty((*shape[:-3], *shape[-2:-1], *shape[-3:-2]), "float32")


def _from_dlpack(name: str, x: Any) -> Any:
    try:
        t = tvm_ffi.from_dlpack(x)
    except Exception as error:  # a producer raises what it likes
        raise TypeError(f"{name}: is {type(x).__name__}; DLPack cannot take it: {error}") from None
    if t.device.type != "cpu":
        raise TypeError(
            f"{name}: is {type(x).__name__} on {t.device}; on other devices than the CPU torch"
            " tensors are taken (torch.from_dlpack makes one without a copy)"
        )
    return t


def _exported(*, writable: bool = False, **tensors: Any) -> list[Any]:
    """Arguments for the binding. An input is copied unless its last stride is 1 and its memory
    writable, aligned and of native byte order, which the library and DLPack need."""
    result: list[Any] = []
    for name, x in tensors.items():
        if x is None:
            result.append(None)
        elif _is_numpy(x):
            result.append(_from_dlpack(name, _plain_array(name, x, writable)))
        elif _is_torch(x):
            result.append(_plain_torch(name, x, writable))
        elif writable:
            raise TypeError(
                f"{name}: is {type(x).__name__}; only NumPy arrays and torch tensors are written to"
            )
        else:
            result.append(_from_dlpack(name, x))
    return result


def _plain_array(name: str, x: Any, writable: bool) -> Any:
    np = _numpy()
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{name}: is a masked array, whose mask would be lost; give its data, and to mask keys"
            " a boolean bias, True where a key is seen"
        )
    if x.dtype.name == "uint16":
        raise TypeError(f"{name}: is uint16; expected float32, float16 or bfloat16 (of ml_dtypes)")
    if writable:
        if not x.flags.writeable:
            raise ValueError(f"{name}: is read-only; it would be written to")
    else:
        x = x.astype(x.dtype.newbyteorder("="), copy=False)
        strided = all(s % x.itemsize == 0 for s in x.strides)
        last = x.ndim == 0 or x.shape[-1] <= 1 or x.strides[-1] == x.itemsize
        if not (strided and last and x.flags.writeable and x.flags.aligned):
            x = np.array(x, order="C")
    return x.view(np.uint16) if x.dtype.name == "bfloat16" else x


def _plain_torch(name: str, x: Any, writable: bool) -> Any:
    """A torch tensor beside a q of another kind. It must be plain: no operator is called."""
    from ._torch import is_direct, passes

    plain = x if writable else x.detach().resolve_neg()
    if not is_direct(plain):
        raise TypeError(
            f"{name}: is a torch tensor that is traced, transformed or not plain, which takes torch"
            " tensors for all arguments"
        )
    return plain if writable else passes.dense(plain)


def _exported_options(given: Options) -> tuple[Any, ...]:
    tensors = dict(zip(Options._fields[:TENSORS], given))
    return (*_exported(**tensors), *given[TENSORS:])
