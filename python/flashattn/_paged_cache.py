"""KVCache: the keys and values of many sequences, in pages that sequences may share."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ._options import whole_number

Counts = int | Sequence[int] | Tensor
Tokens = Sequence[int] | Tensor
TokensOfEach = Sequence[Tokens] | Tensor


class OutOfPages(RuntimeError):
    """A KVCache has fewer free pages than a call needs. The call changed nothing."""


@dataclass
class _Sequence:
    pages: list[int] = field(default_factory=list)
    length: int = 0  # tokens whose keys and values are in the cache
    room: int = 0  # tokens after them that may be written
    tokens: list[int] = field(default_factory=list)  # ids of the first tokens, as far as told


class KVCache:
    """Keys and values of many sequences and all layers of a model, for decoding.

    A step of generation takes four calls. Every layer reads and writes the same pages:

        cache.reserve(sequences, 1)
        used = dict(cache_seqlens=cache.cache_seqlens(sequences),
                    block_table=cache.block_table(sequences))
        for each layer:  # with its q, and its new k and v [batch, 1, heads_k, head_dim]
            out = flash_attn_with_kvcache(q, cache.k[layer], cache.v[layer], k, v, **used)
        cache.advance(sequences, 1)

    A sequence is an integer, which `add` or `fork` returns. `sequences` are different ones, in the
    order of the batch. `counts` say how many tokens: one number for each sequence, or one for all.

    `advance` may be told the ids of the new tokens. The cache then finds a page by its tokens and
    all tokens before them, and `add` begins a sequence with the pages of an equal prefix. This is
    right where keys and values depend on the token ids alone. Two models, or two adapters of one,
    need two caches. A freed page that can be found keeps its content until no other page is free;
    the one that was freed first goes first.

    What always holds between two calls:

    - A sequence has ceil((length + room) / page_size) pages. Its token j is in row j % page_size of
      page j // page_size.
    - A page counts the sequences that have it. With a count of 0 it is free, and only then.
    - A row in a sequence's room belongs to this sequence alone, and its page cannot be found.
    - A page that can be found is full of keys and values and stays as it is: before a sequence
      writes into it again, after `truncate`, it is copied where shared, and else forgotten.

    An error leaves everything as it was. Rows that no sequence counts may hold anything, also NaN.
    One thread at a time may call a cache.

    Args:
        layers, pages, page_size, heads_k, head_dim: k is [layers, pages, page_size, heads_k,
            head_dim]; one page number means the same page of every layer.
        head_dim_v: of v; as head_dim when not given.
        dtype, device: of k and v; torch's defaults when not given.
    """

    def __init__(
        self,
        layers: int,
        pages: int,
        page_size: int,
        heads_k: int,
        head_dim: int,
        *,
        head_dim_v: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        extents = dict(layers=layers, pages=pages, page_size=page_size, heads_k=heads_k)
        shape = [_number(name, extent, least=1) for name, extent in extents.items()]
        dim = _number("head_dim", head_dim, least=1)
        dim_v = dim if head_dim_v is None else _number("head_dim_v", head_dim_v, least=1)
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise TypeError(f"dtype: is {dtype}; expected a floating dtype of torch")
        with torch.inference_mode(False):  # so that they can be written in and out of it
            self.k = torch.empty(*shape, dim, dtype=dtype, device=device)
            self.v = torch.empty(*shape, dim_v, dtype=dtype, device=device)
        self.page_size = shape[2]
        self._sequences: dict[int, _Sequence] = {}
        self._next = 0  # the integer of the next sequence
        self._holders = [0] * shape[1]  # of each page: how many sequences have it
        self._empty = list(reversed(range(shape[1])))  # free pages that cannot be found
        self._idle: OrderedDict[int, None] = OrderedDict()  # free, can be found; oldest first
        self._digests: list[bytes | None] = [None] * shape[1]  # of a full page and all before it
        self._found: dict[bytes, int] = {}  # the page of a digest

    @property
    def free_pages(self) -> int:
        """How many pages no sequence has."""
        return len(self._empty) + len(self._idle)

    def add(self, tokens: Tokens = ()) -> int:
        """A new sequence. Where the cache finds full pages of the same first tokens, it begins with
        them, and `length` says how many tokens they hold. At least the last of `tokens` is left to
        be computed. Needs no page beside those."""
        ids = _ids(tokens)
        new, digest = _Sequence(), b""
        for begin in range(0, len(ids) - self.page_size, self.page_size):
            digest = _digest(digest, ids[begin : begin + self.page_size])
            if digest not in self._found:
                break
            new.pages.append(self._found[digest])
        new.length = len(new.pages) * self.page_size
        new.tokens = ids[: new.length]
        return self._hold(new)

    def fork(self, sequence: int) -> int:
        """A new sequence of the same tokens in the same pages. A last page that is not full is
        copied when one of the two needs room. `sequence` loses the room that it had."""
        old = self._of(sequence)
        self._cut(old, old.length)
        return self._hold(_Sequence(list(old.pages), old.length, tokens=list(old.tokens)))

    def free(self, sequence: int) -> None:
        """Ends a sequence. Its pages are free where no other sequence has them."""
        self._cut(self._of(sequence), 0)
        del self._sequences[int(sequence)]

    def truncate(self, sequence: int, count: int) -> None:
        """Drops the last `count` tokens, as when a guess was wrong, and the room after them."""
        cut, count = self._of(sequence), _number("count", count)
        if count > cut.length:
            raise ValueError(f"count: is {count}; sequence {sequence} has {cut.length} tokens")
        self._cut(cut, cut.length - count)

    def length(self, sequence: int) -> int:
        """How many tokens of a sequence are in the cache."""
        return self._of(sequence).length

    def reserve(self, sequences: Iterable[int], counts: Counts) -> None:
        """Makes room for at least `counts` tokens after those that each sequence has. Copies the
        pages that must be copied, in all layers. Raises OutOfPages where too few pages are free."""
        batch = self._batch(sequences)
        grown = [(s, n) for s, n in zip(batch, _counts(counts, len(batch))) if n > s.room]
        pages = {id(s): -(-(s.length + n) // self.page_size) for s, n in grown}
        # All holders of a page copy it but the last, whose own it is then, as with room it is.
        begun = [s for s, _ in grown if s.length % self.page_size > 0]
        writers = Counter(s.pages[-1] for s in begun)
        needed = sum(min(n, self._holders[page] - 1) for page, n in writers.items())
        needed += sum(pages[id(s)] - len(s.pages) for s, _ in grown)
        if needed > self.free_pages:
            raise OutOfPages(f"pages: {needed} are needed and {self.free_pages} free")
        for s in begun:
            self._own_last_page(s)
        for s, n in grown:
            s.pages += [self._take() for _ in range(pages[id(s)] - len(s.pages))]
            s.room = n

    def advance(
        self, sequences: Iterable[int], counts: Counts, tokens: TokensOfEach | None = None
    ) -> None:
        """Says that the keys and values of `counts` tokens were written into each sequence's room,
        in every layer. tokens: their ids, for each sequence as many as its count."""
        batch = self._batch(sequences)
        each = self._fit(batch, counts)
        ids = None if tokens is None else _ids_of_each(tokens, each)
        for i, (s, n) in enumerate(zip(batch, each)):
            if ids is not None and len(s.tokens) == s.length:
                s.tokens += ids[i]
            s.length += n
            s.room -= n
            self._let_find(s, first=(s.length - n) // self.page_size)

    def block_table(self, sequences: Iterable[int]) -> Tensor:
        """int32 [batch, N]: the pages of each sequence, its room's too. 0 fills the rest."""
        batch = self._batch(sequences)
        width = max((len(s.pages) for s in batch), default=0)
        rows = [s.pages + [0] * (width - len(s.pages)) for s in batch]
        return self._tensor(rows, torch.int32).view(len(batch), width)

    def cache_seqlens(self, sequences: Iterable[int]) -> Tensor:
        """int32 [batch]: the length of each sequence, without its room."""
        return self._tensor([s.length for s in self._batch(sequences)], torch.int32)

    def slots(self, sequences: Iterable[int], counts: Counts) -> Tensor:
        """int64 [sum of counts]: where the next `counts` tokens of each sequence go, as rows of
        cache.k[layer].flatten(0, 1). For what appends nothing itself: flash_attn_varlen_func."""
        batch, size = self._batch(sequences), self.page_size
        rows = [
            s.pages[j // size] * size + j % size
            for s, n in zip(batch, self._fit(batch, counts))
            for j in range(s.length, s.length + n)
        ]
        return self._tensor(rows, torch.int64)

    def _tensor(self, numbers: list[Any], dtype: torch.dtype) -> Tensor:
        return torch.tensor(numbers, dtype=dtype, device=self.k.device)

    def _of(self, sequence: Any, name: str = "sequence") -> _Sequence:
        number = whole_number(name, sequence)
        if number not in self._sequences:
            raise ValueError(f"{name}: is {number}, which is no sequence of this cache")
        return self._sequences[number]

    def _batch(self, sequences: Any) -> list[_Sequence]:
        numbers = [whole_number("sequences", s) for s in _listed("sequences", sequences)]
        batch = [self._of(number, "sequences") for number in numbers]
        if len(set(numbers)) < len(numbers):
            raise ValueError(f"sequences: is {numbers}; each may be there once")
        return batch

    def _fit(self, batch: list[_Sequence], counts: Any) -> list[int]:
        """The counts, which must fit into the room of the sequences."""
        each = _counts(counts, len(batch))
        for b, (s, n) in enumerate(zip(batch, each)):
            if n > s.room:
                raise ValueError(
                    f"counts: is {n} for sequence {b} of the batch; room for {s.room} is reserved"
                )
        return each

    def _hold(self, new: _Sequence) -> int:
        for page in new.pages:
            self._holders[page] += 1
            self._idle.pop(page, None)
        self._sequences[self._next] = new
        self._next += 1
        return self._next - 1

    def _cut(self, s: _Sequence, length: int) -> None:
        """Shortens s and drops its room. Of its freed pages the last is taken again first: a page
        is found only after those before it."""
        kept = -(-length // self.page_size)
        for page in reversed(s.pages[kept:]):
            self._release(page)
        del s.pages[kept:], s.tokens[length:]
        s.length, s.room = length, 0

    def _own_last_page(self, s: _Sequence) -> None:
        """Makes the last page one that s may write into."""
        shared = s.pages[-1]
        if self._holders[shared] == 1:
            self._forget(shared)
            return
        s.pages[-1] = own = self._take()
        self._release(shared)
        for cache in (self.k, self.v):
            cache[:, own] = cache[:, shared]

    def _take(self) -> int:
        page = self._empty.pop() if self._empty else self._idle.popitem(last=False)[0]
        self._forget(page)
        self._holders[page] = 1
        return page

    def _release(self, page: int) -> None:
        self._holders[page] -= 1
        if self._holders[page] > 0:
            return
        digest = self._digests[page]
        if digest is not None and self._found.setdefault(digest, page) == page:
            self._idle[page] = None
        else:
            self._empty.append(page)

    def _let_find(self, s: _Sequence, first: int) -> None:
        """Lets the full pages from page number `first` of s on be found, if their tokens are
        known. Of equal pages one is found."""
        size = self.page_size
        for i in range(first, len(s.tokens) // size):
            before = self._digests[s.pages[i - 1]] if i > 0 else b""
            assert before is not None  # the tokens of all pages before are known, too
            digest = _digest(before, s.tokens[i * size : (i + 1) * size])
            self._digests[s.pages[i]] = digest
            self._found.setdefault(digest, s.pages[i])

    def _forget(self, page: int) -> None:
        digest = self._digests[page]
        if digest is not None and self._found.get(digest) == page:
            del self._found[digest]
        self._digests[page] = None


def _digest(before: bytes, ids: list[int]) -> bytes:
    return hashlib.sha256(before + array("q", ids).tobytes()).digest()


def _number(name: str, given: Any, least: int = 0) -> int:
    number = whole_number(name, given)
    if number < least:
        raise ValueError(f"{name}: is {number}; it must be at least {least}")
    return number


def _plain(given: Any) -> Any:
    """The numbers of a tensor or an array; all else as it is."""
    return given.tolist() if hasattr(given, "tolist") else given


def _listed(name: str, given: Any) -> list[Any]:
    listed = _plain(given)
    if isinstance(listed, str) or not isinstance(listed, Iterable):
        raise TypeError(f"{name}: is {type(given).__name__}; expected a list or a tensor of them")
    return list(listed)


def _counts(given: Any, batch: int) -> list[int]:
    if not isinstance(_plain(given), Iterable):
        return [_number("counts", given)] * batch
    counts = [_number("counts", count) for count in _listed("counts", given)]
    if len(counts) != batch:
        raise ValueError(f"counts: are {len(counts)}; expected one for each of {batch} sequences")
    return counts


def _ids(tokens: Any) -> list[int]:
    return [whole_number("tokens", token) for token in _listed("tokens", tokens)]


def _ids_of_each(tokens: Any, counts: list[int]) -> list[list[int]]:
    ids = [_ids(of_one) for of_one in _listed("tokens", tokens)]
    lengths = [len(of_one) for of_one in ids]
    if lengths != counts:
        raise ValueError(f"tokens: has {lengths} ids for the sequences; expected {counts}")
    return ids
