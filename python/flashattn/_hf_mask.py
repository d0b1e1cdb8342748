"""What a mask of transformers means.

transformers describes a mask by a function of (batch, head, query, key) positions. `rule_of` reads
the functions that transformers itself composes: each is recognised by its code object, and the
translation is checked once against the functions' own values (`_translation_holds`). A `Mask` then
carries the meaning to the attention function in linear memory. For any other use it is the mask of
"eager", 0 and the dtype's lowest number [batch, 1, seqlen_q, seqlen_k]: the first operation on it
writes it out.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map


@dataclass(frozen=True)
class Rule:
    """A mask function: the conjunction of its fields. Positions are absolute."""

    causal: bool = False  # key <= query
    left: int | None = None  # key >= query - left
    right: int | None = None  # key <= query + right
    chunks: tuple[tuple[int, Tensor], ...] = ()  # (size, left padding [batch])
    segments: Tensor | None = None  # [batch, seqlen], which sequence a position belongs to
    positions: Tensor | None = None  # [batch, seqlen], what causal, left, right, chunks count by
    paddings: tuple[Tensor, ...] = ()  # [batch, seqlen_k], False hides a key

    def counts(self) -> bool:
        return self.causal or bool(self.chunks) or (self.left, self.right) != (None, None)


@functools.cache
def _kinds() -> dict[Any, str]:
    """The code objects of transformers' mask functions."""
    from transformers import masking_utils as m

    t = torch.zeros(1, 1, dtype=torch.long)
    functions = dict(
        all=m.bidirectional_mask_function,
        causal=m.causal_mask_function,
        conjunction=m.and_masks(m.causal_mask_function),
        sliding=m.sliding_window_overlay(1),
        sliding_both=m.sliding_window_bidirectional_overlay(1),
        chunked=m.chunked_overlay(1, t[0]),
        packed=m.packed_sequence_mask_function(t),
        remapped=m.remap_positions_for_packed_sequence(m.causal_mask_function, t),
        padding=m.padding_mask_function(t),
    )
    return {function.__code__: kind for kind, function in functions.items()}


def rule_of(function: Callable[..., Any]) -> Rule | None:
    """The rule of a mask function, or None if it is not composed of transformers' known parts."""
    return _parsed(function) if _translation_holds() else None


def _parsed(function: Callable[..., Any]) -> Rule | None:
    code = getattr(function, "__code__", None)
    kind = _kinds().get(code)
    if code is None or kind is None:
        return None
    cells = (cell.cell_contents for cell in function.__closure__ or ())
    closed = dict(zip(code.co_freevars, cells, strict=True))
    if kind == "conjunction":
        rule: Rule | None = Rule()
        for part in closed["mask_functions"]:
            rule = _conjunction(rule, _parsed(part))
        return rule
    if kind == "remapped":
        return _remapped(_parsed(closed["mask_function"]), closed["position_ids"])
    return _SIMPLE[kind](closed)


_SIMPLE: dict[str, Callable[[dict[str, Any]], Rule]] = {
    "all": lambda closed: Rule(),
    "causal": lambda closed: Rule(causal=True),
    "sliding": lambda closed: Rule(left=closed["sliding_window"] - 1),
    "sliding_both": lambda closed: Rule(
        left=closed["sliding_window"], right=closed["sliding_window"]
    ),
    "chunked": lambda closed: Rule(chunks=((closed["chunk_size"], closed["left_padding"]),)),
    "packed": lambda closed: Rule(segments=closed["packed_sequence_mask"]),
    "padding": lambda closed: Rule(paddings=(closed["padding_mask"],)),
}


def _remapped(inner: Rule | None, positions: Tensor) -> Rule | None:
    if inner is None or inner.positions is not None:
        return None
    if inner.segments is not None or inner.paddings:
        return None  # transformers would look these up by the remapped positions
    return replace(inner, positions=positions)


def _conjunction(a: Rule | None, b: Rule | None) -> Rule | None:
    if a is None or b is None or (a.segments is not None and b.segments is not None):
        return None
    if a.positions is not b.positions and a.counts() and b.counts():
        return None
    counted = [x for x in (a, b) if x.counts()]
    lefts = [x.left for x in (a, b) if x.left is not None]
    rights = [x.right for x in (a, b) if x.right is not None]
    return Rule(
        causal=a.causal or b.causal,
        left=min(lefts, default=None),
        right=min(rights, default=None),
        chunks=a.chunks + b.chunks,
        segments=b.segments if a.segments is None else a.segments,
        positions=counted[0].positions if counted else None,
        paddings=a.paddings + b.paddings,
    )


def _dense(rule: Rule, q: Tensor, k: Tensor) -> Tensor:
    """The rule at positions q [Sq] and k [Sk]: bool [batch or 1, Sq, Sk]."""
    visible = torch.ones(1, len(q), len(k), dtype=torch.bool, device=q.device)
    pq, pk = q[None], k[None]
    if rule.positions is not None:
        pq, pk = rule.positions[:, q], rule.positions[:, k]
    pq, pk = pq[:, :, None], pk[:, None, :]
    if rule.causal:
        visible = visible & (pk <= pq)
    if rule.left is not None:
        visible = visible & (pk >= pq - rule.left)
    if rule.right is not None:
        visible = visible & (pk <= pq + rule.right)
    for size, left_padding in rule.chunks:
        begin = left_padding[:, None, None]
        visible = visible & ((pk - begin) // size == (pq - begin) // size)
    if rule.segments is not None:
        visible = visible & (rule.segments[:, q, None] == rule.segments[:, None, k])
    for padding in rule.paddings:
        visible = visible & padding[:, None, k].bool()
    return visible


def _examples() -> Iterator[Callable[..., Any]]:
    from transformers import masking_utils as m

    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 0, 1], [3, 4, 5, 6, 7, 8, 0, 1, 2]])
    packed = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 0, 0, 1, 1, 1]])
    padding = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 1, 1, 0, 0]]).bool()
    begins = torch.tensor([0, 2])
    bases = [m.causal_mask_function, m.bidirectional_mask_function]
    bases += [m.sliding_window_causal_mask_function(n) for n in (1, 2, 4)]
    bases += [m.sliding_window_bidirectional_mask_function(n) for n in (1, 3)]
    bases += [m.chunked_causal_mask_function(n, begins) for n in (2, 4)]
    for base in bases:
        yield base
        yield m.and_masks(base, m.padding_mask_function(padding))
        yield m.packed_sequence_compatibility_function(base, positions, packed)


@functools.cache
def _translation_holds() -> bool:
    """Whether each kind of function, evaluated, gives what is read from it. If one does not, as in
    another version of transformers, all masks are written out."""
    q, batch = torch.arange(9), torch.arange(2)[:, None, None, None]
    for function in _examples():
        rule = _parsed(function)
        expected = function(batch, q[:1, None, None], q[:, None], q)
        if rule is None or not torch.equal(
            _dense(rule, q, q).expand(2, 9, 9), expected.expand(2, 1, 9, 9)[:, 0]
        ):
            return False
    return True


@dataclass(frozen=True)
class Meaning:
    """Row i sees key j, both counted from 0, iff all of these allow it."""

    causal: bool = False  # j <= i + offset
    left: int | None = None  # j >= i + offset - left
    right: int | None = None  # j <= i + offset + right
    offset: int | Tensor = 0
    padding: Tensor | None = None  # bool [batch, seqlen_k]
    lengths: Tensor | None = None  # int32 [batch]: j < length
    segments: Tensor | None = None  # [batch, seqlen]: the same, never falling; seqlen_q = seqlen_k

    def hides_nothing(self) -> bool:
        sides = (self.left, self.right, self.padding, self.lengths, self.segments)
        return not self.causal and all(x is None for x in sides)

    def written_out(self, seqlen_q: int, seqlen_k: int, like: Tensor) -> Tensor:
        """bool [batch or 1, 1, seqlen_q or 1, seqlen_k or 1], on the device of `like`."""
        # Made of `like`, which is a tensor of the graph while a graph is recorded.
        ones = like.new_ones((max(seqlen_q, seqlen_k),), dtype=torch.long)
        index = ones.cumsum(0) - 1
        row, key = index[:seqlen_q, None] + self.offset, index[:seqlen_k]
        visible = like.new_ones((1, 1, 1, 1), dtype=torch.bool)
        if self.causal:
            visible = visible & (key <= row)
        if self.left is not None:
            visible = visible & (key >= row - self.left)
        if self.right is not None:
            visible = visible & (key <= row + self.right)
        if self.padding is not None:
            visible = visible & self.padding[:, None, None, :]
        if self.lengths is not None:
            visible = visible & (key < self.lengths[:, None, None, None])
        if self.segments is not None:
            same = self.segments[:, :, None] == self.segments[:, None, :]
            visible = visible & same[:, None]
        return visible


FIELDS = tuple(field.name for field in fields(Meaning))


class Mask(torch.Tensor):
    """A mask [batch, 1, seqlen_q, seqlen_k] to add to the scores, held as its meaning. The fields
    of the meaning are attributes, because torch.compile finds tensors there. `like` is empty."""

    like: Tensor

    @staticmethod
    def __new__(
        cls,
        meaning: Meaning,
        shape: Any,
        dtype: torch.dtype,
        device: torch.device,
        like: Tensor | None = None,
    ) -> Mask:
        mask = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype, device=device)
        for name in FIELDS:
            setattr(mask, name, getattr(meaning, name))
        mask.like = torch.empty(0, dtype=dtype, device=device) if like is None else like
        return mask

    def __init__(self, *args: Any) -> None:
        pass

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in (torch.ops.aten.detach.default, torch.ops.aten.alias.default):
            (mask,) = args
            return Mask(read(mask), mask.shape, mask.dtype, mask.device, mask.like)
        return func(*tree_map(written_out, args), **tree_map(written_out, kwargs or {}))

    # These let torch.compile take a Mask into a graph.
    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        values = {name: getattr(self, name) for name in FIELDS}
        tensors = [name for name, value in values.items() if isinstance(value, Tensor)]
        return ["like", *tensors], (values | dict.fromkeys(tensors), self.dtype, self.device)

    @staticmethod
    def __tensor_unflatten__(
        inner: dict[str, Tensor], context: Any, size: Any, stride: Any
    ) -> Mask:
        values, dtype, device = context
        values = {name: inner.get(name, value) for name, value in values.items()}
        return Mask(Meaning(**values), size, dtype, device, inner["like"])

    def __deepcopy__(self, memo: dict[int, Any]) -> Mask:
        """Tensor.__deepcopy__ calls clone(), which would write the Mask out."""
        meaning, like = copy.deepcopy((read(self), self.like), memo)
        memo[id(self)] = copied = Mask(meaning, self.shape, self.dtype, self.device, like)
        return copied

    def __repr__(self, **kwargs: Any) -> str:  # type: ignore[override]
        return f"Mask({tuple(self.shape)}, {read(self)})"


def read(mask: Mask) -> Meaning:
    """The meaning of a mask. It is not a property of Mask, as torch.compile would evaluate it."""
    return Meaning(*(getattr(mask, name) for name in FIELDS))


def written_out(mask: Any) -> Any:
    """A Mask as a plain tensor; anything else as it is."""
    if not isinstance(mask, Mask):
        return mask
    visible = read(mask).written_out(mask.shape[2], mask.shape[3], mask.like)
    zero = mask.like.new_zeros(())
    return torch.where(visible, zero, torch.finfo(mask.dtype).min).expand(mask.shape)


def may_look(tensor: Tensor) -> bool:
    """Whether the host may read values: not while a graph is recorded, on whichever device."""
    from transformers.utils.import_utils import is_tracing

    if torch.compiler.is_compiling() or is_tracing(tensor):
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def rule_in_place(function: Callable[..., Any]) -> Rule | None:
    """rule_of, also while a graph is recorded. Dynamo cannot look into closures: there only two
    functions are known."""
    from transformers.masking_utils import bidirectional_mask_function, causal_mask_function
    from transformers.utils.import_utils import is_jit_tracing

    if is_jit_tracing() or torch.compiler.is_exporting():
        return None  # such a graph cannot hold a Mask
    if not torch.compiler.is_compiling():
        return rule_of(function)
    if function is causal_mask_function:
        return Rule(causal=True)
    return Rule() if function is bidirectional_mask_function else None


def meaning_of(
    rule: Rule,
    seqlen_q: int,
    seqlen_k: int,
    q_offset: int | Tensor,
    kv_offset: int,
    padding: Tensor | None,
) -> Meaning | None:
    """The rule for rows from q_offset on and keys from kv_offset on, or None if the mask must be
    written out. `padding` is of these keys."""
    if rule.paddings:
        return None
    offset = q_offset - kv_offset
    meaning = Meaning(rule.causal, rule.left, rule.right, offset if rule.counts() else 0, padding)
    square = isinstance(offset, int) and offset == 0 and seqlen_q == seqlen_k
    if rule.segments is not None or rule.chunks or rule.positions is not None:
        whole = square and isinstance(kv_offset, int) and kv_offset == 0 and padding is None
        segments = _segments(rule, seqlen_q) if whole else None
        return None if segments is None else replace(meaning, segments=segments)
    # Padding at the right end becomes lengths. Causal rows beyond a length are padding, too.
    ends = (rule.causal and square) or not rule.counts()
    if padding is None or not ends or not may_look(padding):
        return meaning
    if not (padding[:, 1:] <= padding[:, :-1]).all():
        return meaning
    return replace(meaning, padding=None, lengths=padding.sum(-1, dtype=torch.int32))


def _segments(rule: Rule, seqlen: int) -> Tensor | None:
    """[batch, seqlen], never falling: two positions are equal if neither packing nor a chunk's end
    lies between. Within a segment positions rise by one, so that distances are those of indices."""
    sequence, positions = rule.segments, rule.positions
    if sequence is None:
        if positions is not None:
            return None
        sequence = torch.zeros(1, seqlen, dtype=torch.long, device=rule.chunks[0][1].device)
    if sequence.shape[-1] != seqlen or not may_look(sequence):
        return None
    if positions is None:
        positions = torch.arange(seqlen, device=sequence.device)
    sequence, positions = torch.broadcast_tensors(sequence, positions)
    step = sequence.diff(dim=-1)
    together = step == 0
    if not ((step >= 0) & (~together | (positions.diff(dim=-1) == 1))).all():
        return None
    for size, begin in rule.chunks:  # positions rise by one, so that a chunk never comes back
        together = together & (((positions - begin[:, None]) // size).diff(dim=-1) == 0)
    return torch.nn.functional.pad((~together).cumsum(-1), (1, 0))
