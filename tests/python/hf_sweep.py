"""Every family of transformers under fa_cpp beside its own eager attention.

python tests/python/hf_sweep.py [--full] [--write docs/transformers.md] [families]
"""

import argparse
import concurrent.futures
import inspect
import multiprocessing
import os
import pathlib
import sys
import traceback
import warnings

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

from flashattn import hf
from hf_families import build, rebuilt
from hf_inputs import MODES, kinds, text

LIST = pathlib.Path(__file__).parents[2] / "docs" / "transformers.md"
EAGER = (
    "eager_attention_forward",
    "vision_eager_attention_forward",
    "text_eager_attention_forward",
)
TOLERANCE = 2e-4  # of the largest element
LARGEST = 10_000_000  # weights
calls = []


class Wrong(Exception):
    """fa_cpp gave something else than eager."""


def register():
    def counted(*args, **kwargs):
        calls.append(None)
        return hf.attention_forward(*args, **kwargs)

    transformers.AttentionInterface.register("fa_cpp", counted)
    transformers.AttentionMaskInterface.register("fa_cpp", hf.attention_mask)


def let_hidden_rows_be_zero():
    """A row that sees no key, padding that is, is 0 here and in eager the mean of all values; in
    some models it reaches the rest. So eager's is made 0, too."""
    for name, module in list(sys.modules.items()):
        if not name.startswith("transformers.models."):
            continue
        for function_name in EAGER:
            function = vars(module).get(function_name)
            if function is not None and not hasattr(function, "of_sweep"):
                setattr(module, function_name, zeroing(function))


def zeroing(function):
    def zeroed(*args, **kwargs):
        out, weights = function(*args, **kwargs)
        mask = args[4] if len(args) > 4 else kwargs.get("attention_mask")
        if mask is not None and mask.is_floating_point():
            hidden = (mask <= torch.finfo(mask.dtype).min / 2).all(-1).transpose(1, 2)
            out = out.masked_fill(hidden[..., None], 0) if hidden.any() else out
        return out, weights

    zeroed.of_sweep = True
    return zeroed


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


def check_mode(model, ours, mode, gradients):
    """'right', 'not used', 'none' (no such inputs), or 'eager fails: why'."""
    failure, found = None, None
    for given in kinds(model, mode):
        try:
            found = result(model, given, gradients)
            break
        except Exception as e:
            failure = e
    if found is None:
        return "none" if failure is None else f"eager fails: {said(failure)}"
    expected, expected_gradients = found
    if not expected.isfinite().any():
        return "eager fails: nothing finite comes out"
    calls.clear()
    got, got_gradients = result(ours, given, gradients)
    if not calls:
        return "not used"
    compare(mode, got, expected)
    if got_gradients.keys() != expected_gradients.keys():
        raise Wrong(f"{mode}: other parameters have gradients")
    largest = max(
        (float(g.abs().max()) for g in expected_gradients.values() if g.numel()), default=0.0
    )
    for name, gradient in expected_gradients.items():
        compare(f"{mode}: gradient of {name}", got_gradients[name], gradient, largest)
    return "right"


def check_generation(model, ours):
    if not model.can_generate() or model.main_input_name != "input_ids":
        return "none"
    parameters = inspect.signature(model.forward).parameters
    given = text(model, parameters, "left", torch.Generator().manual_seed(3))
    if given is None:
        return "none"
    given.pop("decoder_input_ids", None)
    options = dict(max_new_tokens=5, do_sample=False, pad_token_id=0, eos_token_id=None)
    options.update(output_logits=True, return_dict_in_generate=True, decoder_start_token_id=1)
    try:
        expected = model.generate(**given, **options)
    except Exception as e:
        return f"eager fails: {said(e)}"
    calls.clear()
    got = ours.generate(**given, **options)
    if not calls:
        return "not used"
    if not torch.equal(got.sequences, expected.sequences):
        raise Wrong("generation: other tokens")
    for a, b in zip(got.logits, expected.logits, strict=True):
        compare("generation", a, b)
    return "right"


def said(error):
    """Its words; a Wrong's alone."""
    words = " ".join(str(error).split()).replace("|", "/")
    return f"{type(error).__name__}: {words[:110]}{'…' if len(words) > 110 else ''}"


def check(family, full):
    """(outcome, details): 'right' with its modes, 'refused', 'not used', 'untested', 'wrong'."""
    try:
        model = build(CONFIG_MAPPING[family])
    except Exception as e:
        return "untested", f"no small model: {said(e)}"
    if model is None:
        return "untested", "no model class of its own"
    if sum(p.numel() for p in model.parameters()) > LARGEST:
        return "untested", "no small model: some of its sizes are fixed"
    let_hidden_rows_be_zero()
    try:
        ours = rebuilt(model, "fa_cpp")
    except Exception as e:
        return "refused", f"by transformers: {said(e)}"
    return beside_eager(model, ours, full)


def beside_eager(model, ours, full):
    try:
        done = {mode: check_mode(model, ours, mode, full) for mode in MODES}
        if full:
            done["generation"] = check_generation(model, ours)
    except Exception as e:
        named = isinstance(e, NotImplementedError | ValueError | TypeError) and ours_raised(e)
        return "refused" if named else "wrong", said(e)
    right = [mode for mode, outcome in done.items() if outcome == "right"]
    if right:
        return "right", ", ".join(right)
    if "not used" in done.values():
        return "not used", ""
    return "untested", next((x for x in done.values() if x != "none"), "no inputs for it")


def ours_raised(error):
    return any("flashattn" in frame.filename for frame in traceback.extract_tb(error.__traceback__))


def families():
    seen, names = set(), []
    for name in CONFIG_MAPPING_NAMES:
        try:
            config_class = CONFIG_MAPPING[name]
        except Exception:
            continue
        if config_class not in seen:
            seen.add(config_class)
            names.append(name)
    return names


def start():
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    register()


def sweep(names, full, processes=2):
    """{family: (outcome, details)}"""
    os.environ["HF_HUB_OFFLINE"] = "1"  # of the processes: no config is to be looked up
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, context, start) as pool:
        futures = {name: pool.submit(check, name, full) for name in names}
        return {name: future.result() for name, future in futures.items()}


HEAD = f"""# transformers {transformers.__version__} under `fa_cpp`
Each family's smallest model with random weights beside its own eager attention: outputs (without
padding, padded at the right, padded at the left, packed by position_ids), gradients of all
parameters, and greedy generation with left padding. [python.md](python.md) says how masks are
taken.
`python tests/python/hf_sweep.py --full --write docs/transformers.md` wrote this list.

- **right**: the same as eager, in the ways named.
- **refused**: an error by name, with its words.
- **not used**: the family has attention of its own or none, and never calls the one asked for.
- **untested**: no small model of it could be built or fed here; nothing is known.

| family | outcome | |
|---|---|---|
"""


def listed():
    """{family: outcome} of the list that is kept."""
    rows = [line.split("|") for line in LIST.read_text().splitlines() if line.startswith("| `")]
    return {row[1].strip(" `"): row[2].strip() for row in rows}


def listed_by_generation():
    """Families whose row on the list names nothing but generation."""
    rows = [line.split("|") for line in LIST.read_text().splitlines() if line.startswith("| `")]
    return {row[1].strip(" `") for row in rows if row[3].strip() == "generation"}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="gradients and generation, too")
    parser.add_argument("--write", type=pathlib.Path, help="the list")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("families", nargs="*", help="all by default")
    args = parser.parse_args()
    results = sweep(args.families or families(), args.full, args.processes)
    rows = [f"| `{name}` | {outcome} | {why} |\n" for name, (outcome, why) in results.items()]
    if args.write:
        args.write.write_text(HEAD + "".join(rows))
    print("".join(rows if args.families else [r for r in rows if "| wrong |" in r]), end="")
    outcomes = [outcome for outcome, _ in results.values()]
    print({outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))})
    return "wrong" in outcomes


if __name__ == "__main__":
    sys.exit(main())
