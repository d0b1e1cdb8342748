"""The sweep's judge: whether a model under fa_cpp gives what it gives under its eager attention."""

import inspect
import sys
from types import SimpleNamespace

import torch
import transformers

from flashattn import hf

TOLERANCE = 2e-4  # of the largest element
calls = []  # the configs of the modules that asked for attention
# How eager reads masks: its own way, or as fa_cpp does; notes of where that makes a difference.
reading = SimpleNamespace(as_fa_cpp=False, notes=[])
HIDDEN = "rows without keys show"
BOOLEAN = "eager adds a boolean mask"


class Wrong(Exception):
    """fa_cpp gave something else than eager."""


def register():
    def counted(module, *args, **kwargs):
        calls.append(getattr(module, "config", None))
        return hf.attention_forward(module, *args, **kwargs)

    transformers.AttentionInterface.register("fa_cpp", counted)
    transformers.AttentionMaskInterface.register("fa_cpp", hf.attention_mask)


def let_masks_be_read_as_here():
    """Puts `read` around each family's eager attention."""
    for name, module in list(sys.modules.items()):
        if not name.startswith("transformers.models."):
            continue
        for function_name, function in list(vars(module).items()):
            if not function_name.endswith("eager_attention_forward"):
                continue
            if not hasattr(function, "of_sweep"):
                setattr(module, function_name, reader(function))


def reader(function):
    """Eager attention that, while reading.as_fa_cpp, gives 0 for a row that sees no key, padding
    that is, where it has the mean of all values, and hides what a boolean mask hides, where it adds
    that mask to the scores."""

    def read(*args, **kwargs):
        bound = inspect.signature(function).bind(*args, **kwargs)
        mask = bound.arguments.get("attention_mask")
        if not reading.as_fa_cpp or mask is None:
            return function(*args, **kwargs)
        lowest = torch.finfo(torch.float32).min
        if mask.dtype == torch.bool:
            reading.notes.append(BOOLEAN)
            mask = torch.zeros(mask.shape).masked_fill(~mask, lowest)
            bound.arguments["attention_mask"] = mask
        out, weights = function(*bound.args, **bound.kwargs)
        hidden = (mask <= lowest / 2).all(-1).transpose(1, 2)
        if hidden.any():
            reading.notes.append(HIDDEN)
            out = out.masked_fill(hidden[..., None], 0)
        return out, weights

    read.of_sweep = True
    return read


def beside(eager, judge, known=None):
    """Notes of how eager has to be read to be the same; raises Wrong where that does not help.
    `known` is what eager() gives, where it has run already."""
    reading.notes.clear()
    try:
        judge(eager() if known is None else known)
    except Wrong as first:
        reading.as_fa_cpp = True
        try:
            expected = eager()
        finally:
            reading.as_fa_cpp = False
        if not reading.notes:
            raise
        try:
            judge(expected)
        except Wrong as e:
            raise Wrong(f"{first}; with masks read as here {e}") from first
    return list(dict.fromkeys(reading.notes))


def first_tensor(output):
    for name in ("logits", "last_hidden_state"):
        if torch.is_tensor(getattr(output, name, None)):
            return getattr(output, name)
    left = [output.to_tuple() if hasattr(output, "to_tuple") else output]
    while left:
        x = left.pop(0)
        if torch.is_tensor(x) and x.is_floating_point() and x.numel() > 1:
            return x
        left = list(x) + left if isinstance(x, tuple | list) else left
    raise TypeError("no tensor comes out")


def result(model, given, gradients):
    """The output where it is no padding, and the parameters' gradients."""
    torch.manual_seed(5)
    model.zero_grad()
    mask = given.get("attention_mask")
    with torch.set_grad_enabled(gradients):
        out = first_tensor(model(**given))
        if mask is not None and out.shape[:2] == mask.shape and "decoder_input_ids" not in given:
            out = out[mask.bool()]
        if gradients and out.requires_grad:
            # Weighted: of a normalised output the squares alone are constant.
            weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(7))
            (out.float() * weights).sum().backward()
    named = model.named_parameters()
    return out.detach(), {n: p.grad.clone() for n, p in named if p.grad is not None}


def compare(what, got, expected, scale=None):
    if got.shape != expected.shape:
        raise Wrong(f"{what}: has the shape {tuple(got.shape)}, not {tuple(expected.shape)}")
    if torch.equal(got, expected):
        return
    scale = float(expected[expected.isfinite()].abs().max()) if scale is None else scale
    error = (got - expected)[got != expected].abs().max().item()
    if not error <= TOLERANCE * scale:
        raise Wrong(f"{what}: differs by {error:.2g} of {scale:.2g}")
