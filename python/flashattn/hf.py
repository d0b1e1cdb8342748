"""Hugging Face transformers: `register()`, then a model's `attn_implementation="fa_cpp"`.

The mask alone says what a query sees, as in transformers' "eager": `is_causal` and
`sliding_window` change nothing, because the mask holds them already. Masks of known meaning
(causal, windows, chunks, packed sequences, padding) take linear memory and skip what they hide. Any
other mask is written out as a bias.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ._hf_mask import Mask, Meaning, may_look, meaning_of, read, rule_in_place, written_out
from ._names import listing
from .flash_attn_interface import flash_attn_func, flash_attn_varlen_func

__all__ = ["attention_forward", "attention_mask", "register"]

__dir__ = listing(globals())


def register(name: str = "fa_cpp") -> None:
    """Adds this library to transformers' attention functions and masks under `name`.

    A name that contains "flash" is refused: transformers takes those for kernels of its hub.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    if "flash" in name:
        raise ValueError(f"name: is {name!r}; transformers loads names with 'flash' from its hub")
    AttentionInterface.register(name, attention_forward)
    AttentionMaskInterface.register(name, attention_mask)


def attention_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    allow_is_bidirectional_skip: bool = False,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> Tensor | None:
    """A mask function of transformers. It returns the mask of "eager", [batch, 1, q_length,
    kv_length], to add to the scores; where its meaning is understood, as a Mask, which holds the
    meaning. It returns None only if nothing is hidden and the model allows it.
    """
    from transformers.masking_utils import causal_mask_function, eager_mask, prepare_padding_mask

    function = causal_mask_function if mask_function is None else mask_function
    device = torch.device(device)
    if attention_mask is not None and attention_mask.dim() != 2:
        raise ValueError(
            f"attention_mask: has the shape {tuple(attention_mask.shape)}; expected [batch, seqlen]"
            " of padding, or a mask of 4 dimensions"
        )
    padding = prepare_padding_mask(attention_mask, kv_length, kv_offset)
    if padding is not None:
        padding = padding[:, kv_offset : kv_offset + kv_length].bool()
        if may_look(padding) and padding.all():
            padding = None
    rule = rule_in_place(function)
    meaning = None
    if rule is not None:
        meaning = meaning_of(rule, q_length, kv_length, q_offset, kv_offset, padding)
    if meaning is not None:
        if allow_is_bidirectional_skip and meaning.hides_nothing():
            return None
        return Mask(meaning, (batch_size, 1, q_length, kv_length), dtype, device)
    return eager_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,  # type: ignore[arg-type]  # a static cache has a tensor
        kv_offset=kv_offset,
        mask_function=function,
        attention_mask=attention_mask,
        dtype=dtype,
        device=device,
        **kwargs,
    )


def attention_forward(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int | Tensor | None = None,
    max_length_k: int | Tensor | None = None,
    deterministic: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers.

    Args:
        query, key, value: [batch, heads, seqlen, head_dim].
        attention_mask: of `attention_mask` above, or boolean or added to the scores, broadcast to
            [batch, heads, seqlen_q, seqlen_k]; None hides nothing.
        dropout: of the probabilities, while the module trains.
        s_aux: [heads], attention sinks.
        position_bias: added to the scores, broadcast to [batch, heads, seqlen_q, seqlen_k].
        cu_seq_lens_q, cu_seq_lens_k: where the sequences of a flattened batch begin.

    Returns:
        [batch, seqlen, heads, head_dim], and None for the weights.

    Raises:
        NotImplementedError: an argument, by name, that is unknown or not offered.
    """
    _refuse_unknown(kwargs)
    _need_four(query=query, key=key, value=value)
    if (cu_seq_lens_q is None) != (cu_seq_lens_k is None):
        raise ValueError("cu_seq_lens_q, cu_seq_lens_k: only one of the two is given")
    batch = max(query.shape[0], key.shape[0])
    q, k, v = (x.transpose(1, 2).expand(batch, -1, -1, -1) for x in (query, key, value))
    given = None
    if cu_seq_lens_q is not None and cu_seq_lens_k is not None:
        given = (cu_seq_lens_q.to(torch.int32), cu_seq_lens_k.to(torch.int32))
    shape = (batch, q.shape[1], k.shape[1])
    meaning, packed, bias = _combined(attention_mask, position_bias, given, shape)
    options: dict[str, Any] = dict(
        dropout_p=dropout if module.training else 0.0,
        softmax_scale=scaling,
        softcap=softcap or 0.0,
        sinks=s_aux,
        deterministic=bool(deterministic),
        causal=meaning.causal,
        window_size=_window(meaning),
    )
    if packed is None:
        return _padded(q, k, v, meaning, bias, options), None
    out = flash_attn_varlen_func(
        q.flatten(0, 1),
        k.flatten(0, 1),
        v.flatten(0, 1),
        cu_seqlens_q=packed[0],
        cu_seqlens_k=packed[1],
        max_seqlen_q=_longest(packed[0], max_length_q),
        max_seqlen_k=_longest(packed[1], max_length_k),
        **options,
    )
    return out.unflatten(0, (batch, -1)), None


def _padded(
    q: Tensor, k: Tensor, v: Tensor, meaning: Meaning, bias: Tensor | None, options: dict[str, Any]
) -> Tensor:
    """Attention of sequences that are not packed."""
    batch, seqlen_q, seqlen_k = q.shape[0], q.shape[1], k.shape[1]
    if isinstance(meaning.offset, Tensor):
        used = (meaning.offset + seqlen_q).to(torch.int32).expand(batch)
        options.update(seqused_k=used.contiguous())
    elif meaning.causal and meaning.offset + seqlen_q < seqlen_k:  # a static cache's unused end
        end = meaning.offset + seqlen_q
        k, v = k[:, :end], v[:, :end]
        bias = bias if bias is None or bias.shape[-1] == 1 else bias[..., :end]
    if meaning.padding is not None:
        bias = _added(bias, _as_bias(meaning.padding[:, None, None, : k.shape[1]]))
    if meaning.lengths is not None:
        options.update(seqused_k=meaning.lengths)
        if meaning.causal:
            options.update(seqused_q=meaning.lengths)
    if bias is not None:
        bias = bias.expand(*bias.shape[:3], k.shape[1]).to(torch.float32)
    return flash_attn_func(q, k, v, bias=bias, **options)


def _combined(
    mask: Tensor | None,
    position_bias: Tensor | None,
    given: tuple[Tensor, Tensor] | None,
    shape: tuple[int, int, int],
) -> tuple[Meaning, tuple[Tensor, Tensor] | None, Tensor | None]:
    """The mask as a meaning, and either boundaries of packed sequences or a bias, or neither."""
    meaning, bias = _taken_apart(mask, shape)
    if position_bias is not None:
        bias = _added(bias, _as_bias(position_bias))
    packed = None
    if meaning.segments is not None:
        packed = (_boundaries(meaning.segments, shape[0]),) * 2
        meaning = replace(meaning, segments=None)
    if given is not None:
        if packed is None and _can_be_packed(meaning, *given):
            packed = given
        elif packed is None or not all(_same(a, b) for a, b in zip(packed, given, strict=True)):
            bias = _added(bias, _as_bias(_packed_mask(given, shape)))
    if packed is not None and bias is None:
        return meaning, packed, None
    if packed is not None:
        bias = _added(bias, _as_bias(_packed_mask(packed, shape)))
    if not _aligned(meaning, shape):
        assert isinstance(mask, Mask)  # only a Mask has a meaning
        bias = _added(bias, _as_bias(meaning.written_out(*shape[1:], mask.like)))
        meaning = Meaning()
    return meaning, None, bias


def _need_four(**tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.dim() != 4:
            raise ValueError(
                f"{name}: has the shape {tuple(tensor.shape)};"
                " expected [batch, heads, seqlen, head_dim]"
            )


def _refuse_unknown(arguments: dict[str, Any]) -> None:
    """NotImplementedError for an argument of a model that is not known to change nothing."""
    for name, value in arguments.items():
        if value is None or name in WITHOUT_EFFECT or (value is False and name in SWITCHES):
            continue
        why = REASONS.get(name, "fa_cpp does not know it, and it may change the result")
        raise NotImplementedError(f"{name}: is not offered: {why}; use attn_implementation='eager'")


# "eager" takes these arguments and ignores them: the mask contains their meaning, or they are meant
# for other parts of the model.
WITHOUT_EFFECT = frozenset(
    (
        "is_causal",
        "sliding_window",
        "position_ids",
        "use_cache",
        "return_dict",
        "output_hidden_states",
        "output_router_logits",
        "num_items_in_batch",
        "logits_to_keep",
        "input_ids",
        "grid_thw",
        "layer_idx",
    )
)
SWITCHES = frozenset(("output_attentions",))  # False asks for nothing
REASONS = dict(
    cache="paged caches are not",
    output_attentions="the weights are never written out",
    indices="sparse attention by indices is not",
    block_indices="sparse attention by blocks is not",
    sinks="sinks that differ by row are not; s_aux, one for each head, is",
)


def _taken_apart(mask: Tensor | None, shape: tuple[int, int, int]) -> tuple[Meaning, Tensor | None]:
    """The meaning of a mask, or a bias of its size."""
    if mask is None:
        return Meaning(), None
    batch, seqlen_q, seqlen_k = shape
    if isinstance(mask, Mask):
        if mask.shape[0] in (1, batch) and mask.shape[2:] == (seqlen_q, seqlen_k):
            return read(mask), None
        mask = written_out(mask)
    sizes = (mask.shape[0] in (1, batch), *(n in (1, s) for n, s in zip(mask.shape[2:], shape[1:])))
    if mask.dim() != 4 or not all(sizes):
        raise ValueError(
            f"attention_mask: has the shape {tuple(mask.shape)};"
            f" expected [{batch}, heads or 1, {seqlen_q}, {seqlen_k}], also 1 in their place"
        )
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise TypeError(f"attention_mask: is {mask.dtype}; expected torch.bool or a floating dtype")
    return Meaning(), _as_bias(mask)


def _aligned(meaning: Meaning, shape: tuple[int, int, int]) -> bool:
    """Whether the library can use this meaning's diagonal: its own ends at the last row and the
    last key that count."""
    if not meaning.causal and meaning.left is None and meaning.right is None:
        return True
    if isinstance(meaning.offset, Tensor):
        return meaning.causal
    end = meaning.offset + shape[1]
    return end == shape[2] or (meaning.causal and 0 < end < shape[2])


def _window(meaning: Meaning) -> tuple[int, int]:
    sides = (meaning.left, meaning.right)
    left, right = (-1 if side is None else side for side in sides)
    return left, 0 if meaning.causal else right


def _boundaries(segments: Tensor, batch: int) -> Tensor:
    """int32 [sequences + 1], where the segments [batch or 1, seqlen] of all rows begin."""
    segments = segments.expand(batch, -1)
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments.diff(dim=-1) != 0
    begins = begins.flatten().nonzero()[:, 0]
    return torch.nn.functional.pad(begins, (0, 1), value=segments.numel()).to(torch.int32)


def _can_be_packed(meaning: Meaning, cu_q: Tensor, cu_k: Tensor) -> bool:
    """Whether sequences packed at cu_q and cu_k can each have this meaning by itself."""
    if meaning.padding is not None or meaning.lengths is not None:
        return False
    if not meaning.causal and meaning.left is None and meaning.right is None:
        return True
    return isinstance(meaning.offset, int) and meaning.offset == 0 and _same(cu_q, cu_k)


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (may_look(a) and torch.equal(a, b))


def _longest(boundaries: Tensor, given: int | Tensor | None) -> int:
    return int(boundaries.diff().max() if given is None else given)


def _packed_mask(packed: tuple[Tensor, Tensor], shape: tuple[int, int, int]) -> Tensor:
    """bool [batch, 1, seqlen_q, seqlen_k]: True within a sequence."""
    sides = []
    for boundaries, seqlen in zip(packed, shape[1:], strict=True):
        token = torch.arange(shape[0] * seqlen, device=boundaries.device)
        sequence = torch.bucketize(token, boundaries[1:].contiguous(), right=True)
        sides.append(sequence.view(shape[0], seqlen))
    return sides[0][:, None, :, None] == sides[1][:, None, None, :]


def _as_bias(mask: Tensor) -> Tensor:
    """A bias: 0 where a boolean mask is True and -inf elsewhere. A floating mask stays as it is,
    but its lowest numbers become -inf: in a row of nothing else rounding would spoil the gradient.
    A mask that was expanded over batch or rows stays small."""
    for dim in (0, 2):
        if mask.stride(dim) == 0:
            mask = mask.narrow(dim, 0, 1)
    if mask.dtype != torch.bool:
        return mask.masked_fill(mask <= torch.finfo(mask.dtype).min / 2, -torch.inf)
    zeros = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    return zeros.masked_fill(~mask, -torch.inf)


def _added(a: Tensor | None, b: Tensor) -> Tensor:
    return b if a is None else a + b
