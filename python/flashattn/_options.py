"""What forward and backward have in common, as the binding takes it."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Annotated, Any, NamedTuple, get_type_hints

LARGEST = float.fromhex("0x1.fffffep127")  # the largest float32

FAMILIES = {"auto": 0, "sm80": 1, "sm90": 2}

Length = Annotated[int, "may be a compiler's symbol"]


class TensorKind(NamedTuple):
    """What a tensor among the options is a tensor of. Dimensions are counted from the last, -1."""

    batch: int | None = None  # its dimension of sequences; without one it is the same for all
    heads: int | None = None
    broadcast: bool = False  # an extent of 1 stands for all
    instead: str | None = None  # of its gradient, which is not offered


class Options(NamedTuple):
    """The trailing arguments of `_binding.forward` and `_binding.backward`, and of the operators.

    Names and order are binding.cpp's, which `_binding` compares at import. Tensors come first; each
    of them is Any, because its kind is the caller's, and may be None.
    """

    alibi_slopes: Annotated[
        Any, TensorKind(batch=-2, heads=-1, instead="add the term through bias, which has one")
    ] = None
    bias: Annotated[Any, TensorKind(batch=-4, heads=-3, broadcast=True)] = None
    sinks: Annotated[Any, TensorKind(heads=-1)] = None
    dropout_state: Annotated[Any, TensorKind()] = None
    cu_seqlens_q: Annotated[Any, TensorKind()] = None
    cu_seqlens_k: Annotated[Any, TensorKind()] = None
    seqused_q: Annotated[Any, TensorKind(batch=-1)] = None
    seqused_k: Annotated[Any, TensorKind(batch=-1)] = None
    page_table: Annotated[Any, TensorKind()] = None
    max_seqlen_q: Length | None = 0  # None: the operator reads cu_seqlens when it runs
    max_seqlen_k: Length | None = 0
    scale: float | None = None
    causal: bool = False
    window_left: Length = -1
    window_right: Length = -1
    softcap: float = 0.0
    dropout_p: float = 0.0
    deterministic: bool = False
    batch_invariant: bool = False
    family: int = 0
    num_threads: int = 0


# By keyword like Options(...), in half the time.
new_options = Options.__new__

KINDS: dict[str, Any] = get_type_hints(Options, include_extras=True)
TENSOR_KINDS: dict[str, TensorKind] = {
    name: kind.__metadata__[0]
    for name, kind in KINDS.items()
    if isinstance(getattr(kind, "__metadata__", (None,))[0], TensorKind)
}
TENSORS = len(TENSOR_KINDS)  # the first fields of Options
NO_TENSORS = (None,) * TENSORS
# Where the tensors without a gradient stand, their names, and what to do instead.
WITHOUT_GRADIENT = [
    (place, name, kind.instead)
    for place, (name, kind) in enumerate(TENSOR_KINDS.items())
    if kind.instead is not None
]
NOTHING = Options._make([None] * len(KINDS))  # for what is told of each option


def has_tensors(options: tuple[Any, ...]) -> bool:
    """Whether one of the options is a tensor."""
    for t in options[:TENSORS]:  # noqa: SIM110 (any() of a generator takes three times as long)
        if t is not None:  # `==` would be an operation of the tensor's
            return True
    return False


_UNBOUNDED = (-1, -1)


def family_number(family: str) -> int:
    """The C ABI's number of a kernel family."""
    try:
        return FAMILIES[family]
    except (KeyError, TypeError):
        raise ValueError(f"family: is {family!r}; allowed are {', '.join(FAMILIES)}") from None


def window_sides(window: Any, name: str = "window_size") -> tuple[int, int]:
    """(left, right) of a window argument; None is unbounded."""
    if window is None or (type(window) is tuple and window == _UNBOUNDED):
        return _UNBOUNDED
    try:
        left, right = window
    except (TypeError, ValueError):
        raise ValueError(
            f"{name}: is {window!r}; expected two integers (left, right), -1 for unbounded"
        ) from None
    return _window_side(name, left), _window_side(name, right)


def _window_side(name: str, side: Any) -> int:
    return -1 if side is None else whole_number(name, side)


def real_number(name: str, value: Any) -> float:
    """A float, also from an integer or from NumPy. A bool is refused: it is a misplaced flag."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{name}: is too large; it must be a finite float32 number") from None
    raise TypeError(f"{name}: is {_kind(value)}; expected a number")


def scale_or_none(name: str, value: Any) -> float | None:
    """The factor of the scores. It is checked here because the library's errors would call it
    `scale`, which is not every caller's name."""
    if value is None:
        return None
    scale = real_number(name, value)
    if not abs(scale) <= LARGEST:
        raise ValueError(f"{name}: is {scale:g}; it must be a finite float32 number")
    return scale


_BOOLS = ("bool", "torch.bool")  # dtypes


def whole_number(name: str, value: Any) -> int:
    """An integer that fits into 64 bits with a sign, as the library takes it."""
    number = integer(name, value)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"{name}: is {number}; it must fit into 64 bits with a sign")
    return number


def integer(name: str, value: Any) -> int:
    """An integer, also from NumPy or a tensor. A bool is refused: it is a misplaced flag."""
    if not isinstance(value, bool) and str(getattr(value, "dtype", "")) not in _BOOLS:
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"{name}: is {_kind(value)}; expected an integer")


def flag(name: str, value: Any) -> bool:
    """A bool, also from NumPy, or from a compiler's comparison of lengths."""
    if value is True or value is False:
        return value
    if type(value).__name__ in ("bool", "bool_", "SymBool"):
        return bool(value)
    raise TypeError(f"{name}: is {_kind(value)}; expected True or False")


def _kind(value: Any) -> str:
    return "None" if value is None else type(value).__name__


def scale_or_default(scale: float | None, head_dim: int) -> float:
    """The factor of the scores; 1 / sqrt(head_dim) when not given."""
    return 1 / math.sqrt(head_dim) if scale is None else scale


def refuse(**arguments: Any) -> None:
    """NotImplementedError for an argument of flash_attn that this library does not offer."""
    for name, value in arguments.items():
        if value is not None:
            raise NotImplementedError(f"{name}: is not offered")
