"""Who is measured: this library and its peers. A peer on a CUDA device takes part twice, on tensors
that lie sequence first and on such that lie heads first, since none is faster on one of them in
every cell: its figure is that of the faster (report.py)."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from cells import Cell
from report import DETERMINISTIC, HEADS_FIRST, OURS, UNCAPPED
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]  # q, k, v -> out
Lack = Callable[[Cell], str | None]
MOST_SCORES = 256 << 20  # bytes that the plain formula may store of them; its backward has several


def _serves_all(_: Cell) -> None:
    return None


def _same(cell: Cell) -> Cell:
    return cell


@dataclass(frozen=True)
class Contender:
    name: str
    package: str  # whose version counts
    bind: Callable[[Cell], Attend]  # what is timed in a cell, with all but the tensors decided
    # It wants [batch, heads, seqlen, head_dim], else [batch, seqlen, heads, head_dim]. Packed
    # tensors are the same for all: [tokens, heads, head_dim].
    heads_first: bool = False
    lies_heads_first: bool = False  # how its tensors lie in memory
    # A context that chooses its kernel. It is entered outside of the timed call.
    pinned: Callable[[], AbstractContextManager[Any]] = nullcontext
    # Why it cannot or should not take part in a cell, known beforehand.
    lack: Lack = _serves_all
    # The exceptions by which it says that it does not serve a cell; each peer has its own.
    refusals: tuple[type[Exception], ...] = (Exception,)
    # The cells that are of interest for it, and what it computes there.
    takes_part: Callable[[Cell], bool] = lambda _: True
    solves: Callable[[Cell], Cell] = _same

    def own(self, t: Tensor) -> Tensor:
        """A copy of [batch, seqlen, heads, head_dim] that lies as it wants: nobody pays for a
        transpose."""
        turn = self.lies_heads_first and t.dim() == 4
        lying = t.transpose(1, 2) if turn else t
        copy = lying.clone(memory_format=torch.contiguous_format)
        return self.turned(copy.transpose(1, 2) if turn else copy)

    def lying_heads_first(self) -> "Contender":
        """The same contender on tensors that lie heads first. Packed ones lie in one way only."""
        return replace(
            self,
            name=self.name + HEADS_FIRST,
            lies_heads_first=True,
            takes_part=lambda cell: self.takes_part(cell) and not cell.lengths,
        )

    def turned(self, t: Tensor) -> Tensor:
        """From the common layout to its own, and back."""
        return t.transpose(1, 2) if self.heads_first and t.dim() == 4 else t


def contenders_for(
    device: str,
    of_host_time: bool,
    *,
    peers: list[str] | None,
    family: str,
    softcap: bool,
    deterministic: bool,
    builds: dict[str, str],
) -> list[Contender]:
    """Ours first, with `softcap` also without one, with `deterministic` also in that order, as is
    FlashAttention-3 then; other builds of it, and the peers that can be had here, or those of them
    that are named.
    Raises LookupError, which names the argument of compare.py, for what cannot be had."""
    ours = [_ours(device, family)]
    if softcap:
        ours.append(_uncapped(device, family))
    if deterministic:
        ours.append(_deterministic(device, family))
    if builds:
        from builds import build_contender  # which knows this module

        ours += [build_contender(device, family, name, path) for name, path in builds.items()]
    if device == "cuda":
        optional = {"fa3": _flash_attention_3, "fa4": _flash_attention_4}
        if deterministic:
            optional["fa3-ordered"] = _flash_attention_3_in_order
        made = [make() for name, make in optional.items() if peers is None or name in peers]
        found = [_FA2, _CUDNN, *_FALLBACKS, *(peer for peer in made if peer is not None)]
    else:
        found = [_SDPA] if of_host_time else [*_SDPA_CPU, *_optional_cpu_peers(peers)]
    missing = set(peers or []) - {peer.name for peer in found}
    if missing:
        raise LookupError(f"--peers {', '.join(sorted(missing))}: not to be had here")
    chosen = [peer for peer in found if peers is None or peer.name in peers]
    if device == "cuda" and not of_host_time:
        chosen = [way for peer in chosen for way in (peer, peer.lying_heads_first())]
    return [*ours, *chosen]


def _optional_cpu_peers(peers: list[str] | None) -> list[Contender]:
    import cpu_peers  # which knows this module

    asked = [name for name in cpu_peers.NEEDS if peers is None or name in peers]
    lacks = {name: cpu_peers.why_missing(name) for name in asked}
    if peers is not None and (
        told := [f"--peers {name}: {why}" for name, why in lacks.items() if why]
    ):
        raise LookupError("; ".join(told))
    return [cpu_peers.cpu_peer(name) for name in asked if lacks[name] is None]


def _ours(device: str, family: str, **more: Any) -> Contender:
    import flashattn  # after torch: see compare.py

    if family != "auto":
        more["family"] = family
    # On the CPU it serves every cell: whatever it raises there is an error of ours.
    refusals = (NotImplementedError,) if device == "cuda" else ()
    bind = partial(_bind_flash_attn, flashattn, device, more)
    return Contender(OURS, "flashattn", bind, refusals=refusals)


def _uncapped(device: str, family: str) -> Contender:
    """What a softcap costs: our own time without it."""
    ours = _ours(device, family)

    def solves(cell: Cell) -> Cell:
        return replace(cell, softcap=0)

    return replace(
        ours,
        name=UNCAPPED,
        bind=lambda cell: ours.bind(solves(cell)),
        takes_part=lambda cell: cell.softcap > 0,
        solves=solves,
    )


def _deterministic(device: str, family: str) -> Contender:
    """What the order of a deterministic backward pass costs."""
    ours = _ours(device, family, deterministic=True)
    return replace(ours, name=DETERMINISTIC, takes_part=_is_deterministic)


def _is_deterministic(cell: Cell) -> bool:
    """Whether an order of sums makes a difference."""
    return cell.work in ("backward", "training")


def _bind_flash_attn(module: Any, device: str, more: dict[str, Any], cell: Cell) -> Attend:
    """Of a module with flash_attn's functions."""
    options = {"causal": cell.causal, **more}
    if cell.window:
        options["window_size"] = (cell.window, 0)
    if cell.softcap:
        options["softcap"] = cell.softcap
    if not cell.lengths:
        return partial(module.flash_attn_func, **options)
    bounds, longest = bounds_of(cell, device), max(cell.lengths)
    return partial(
        module.flash_attn_varlen_func,
        cu_seqlens_q=bounds,
        cu_seqlens_k=bounds,
        max_seqlen_q=longest,
        max_seqlen_k=longest,
        **options,
    )


def bounds_of(cell: Cell, device: str) -> Tensor:
    """cu_seqlens"""
    lengths = torch.tensor([0, *cell.lengths], device=device)
    return lengths.cumsum(0, dtype=torch.int32)


def _bind_sdpa(cell: Cell) -> Attend:
    # is_causal is aligned to the top left: ours only where Sq = Sk, as in every causal cell.
    grouped = cell.heads_q != cell.heads_k
    if not cell.window:
        return partial(scaled_dot_product_attention, is_causal=cell.causal, enable_gqa=grouped)
    ones = torch.ones(cell.seqlen_q, cell.seqlen_k, dtype=torch.bool)
    mask = ones.tril().triu(-cell.window)
    return partial(scaled_dot_product_attention, attn_mask=mask, enable_gqa=grouped)


def _bind_fa2(cell: Cell) -> Attend:
    """PyTorch's FlashAttention-2, where need be by the operator behind it, which takes windows and
    packed sequences (as torch.nn.attention.varlen does)."""
    if not cell.window and not cell.lengths:
        return _bind_sdpa(cell)
    bounds = bounds_of(cell, "cuda") if cell.lengths else None
    longest = max(cell.lengths, default=cell.seqlen_q)
    window = {"window_size_left": cell.window, "window_size_right": 0} if cell.window else {}
    causal = cell.causal and not cell.window  # the window's right side says it

    def attend(*tensors: Tensor) -> Tensor:
        q, k, v = tensors if cell.lengths else (t.transpose(1, 2) for t in tensors)
        out = torch.ops.aten._flash_attention_forward(
            q, k, v, bounds, bounds, longest, longest, 0.0, causal, False, **window
        )[0]
        return out if cell.lengths else out.transpose(1, 2)

    return attend


def first_lack(*lacks: Lack) -> Lack:
    def lack(cell: Cell) -> str | None:
        return next((reason for reason in (lack(cell) for lack in lacks) if reason), None)

    return lack


def no_softcap(cell: Cell) -> str | None:
    return "has no softcap" if cell.softcap else None


def no_window(cell: Cell) -> str | None:
    return "has no window" if cell.window else None


def no_packing(cell: Cell) -> str | None:
    return "takes no packed sequences" if cell.lengths else None


def _stores_scores(cell: Cell) -> str | None:
    fits = cell.score_bytes <= MOST_SCORES
    return None if fits else f"scores take more than {MOST_SCORES >> 20} MiB"


def _of_sdpa(
    name: str, backend: SDPBackend, *lacks: Lack, bind: Callable[[Cell], Attend] = _bind_sdpa
) -> Contender:
    lack = first_lack(no_softcap, *lacks)
    return Contender(
        name, "torch", bind, heads_first=True, pinned=partial(sdpa_kernel, backend), lack=lack
    )


# On the CPU heads first, which PyTorch's kernels read as it lies.
_SDPA = Contender("sdpa", "torch", _bind_sdpa, heads_first=True, lies_heads_first=True)
_SDPA_CPU = tuple(
    replace(peer, lies_heads_first=True)
    for peer in (
        _of_sdpa("sdpa-flash", SDPBackend.FLASH_ATTENTION, no_window, no_packing),
        _of_sdpa("sdpa-math", SDPBackend.MATH, no_packing, _stores_scores),
    )
)
_FA2 = _of_sdpa("fa2", SDPBackend.FLASH_ATTENTION, bind=_bind_fa2)
_CUDNN = _of_sdpa("cudnn", SDPBackend.CUDNN_ATTENTION, no_window, no_packing)


@contextmanager
def _formula_in_16_bits() -> Iterator[None]:
    """PyTorch's plain formula without its conversions to float32: faster, less exact."""
    before = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(before)


def _no_kernel_of_others(cell: Cell) -> bool:
    return cell.head_dim > 256


# What PyTorch has for a head_dim beyond 256, where no other peer serves.
_FALLBACKS = tuple(
    replace(peer, takes_part=_no_kernel_of_others)
    for peer in (
        _of_sdpa("efficient", SDPBackend.EFFICIENT_ATTENTION, no_window, no_packing),
        _of_sdpa("math", SDPBackend.MATH, no_window, no_packing),
        replace(
            _of_sdpa("math-16", SDPBackend.MATH, no_window, no_packing),
            pinned=_formula_in_16_bits,
        ),
    )
)


def _flash_attention_3() -> Contender | None:
    return _peer("fa3", "fa3", "fa3", _no_packed_backward)


def _flash_attention_3_in_order() -> Contender | None:
    def lack(cell: Cell) -> str | None:
        if cell.head_dim > 192:
            return "has no fixed order at head_dim 256"
        return _no_packed_backward(cell)

    peer = _peer("fa3-ordered", "fa3", "fa3", lack, deterministic=True)
    return peer and replace(peer, takes_part=_is_deterministic)


def _flash_attention_4() -> Contender | None:
    return _peer("fa4", "flash-attn-4", "flash_attn.cute", _serves_all)


def _no_packed_backward(cell: Cell) -> str | None:
    """The module fa3 at hand: packed sequences forward only."""
    return "has no packed backward" if cell.lengths and cell.needs_gradients else None


def _peer(name: str, package: str, module_name: str, lack: Lack, **more: Any) -> Contender | None:
    try:
        module = importlib.import_module(module_name)
    except ImportError:
        return None

    def bind(cell: Cell) -> Attend:
        function = _bind_flash_attn(module, "cuda", more, cell)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            result = function(q, k, v)  # some versions return (out, lse)
            return result[0] if isinstance(result, tuple) else result

        return attend

    return Contender(name, package, bind, lack=lack)
