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

from hf_families import build, model_classes, rebuilt
from hf_inputs import MODES, kinds, text
from hf_judge import (
    BOOLEAN,
    HIDDEN,
    Wrong,
    beside,
    calls,
    compare,
    let_masks_be_read_as_here,
    register,
    result,
)

LIST = pathlib.Path(__file__).parents[2] / "docs" / "transformers.md"
LARGEST = 100_000_000  # weights
RANK = ("wrong", "refused", "right", "not used", "untested")
NO_INPUTS = "no inputs for it"


def check_mode(model, ours, mode, gradients):
    """'right', with notes, 'not used', 'none' (no such inputs), or 'eager fails: why'."""
    failure, found = None, None
    for given in kinds(model, mode):
        try:
            found = result(model, given, False)
            break
        except Exception as e:
            failure = failure or e
    if found is None:
        return "none" if failure is None else f"eager fails: {said(failure)}"
    if not found[0].isfinite().any():
        return "eager fails: nothing finite comes out"
    calls.clear()
    got, got_gradients = result(ours, given, False)
    if not calls:
        return "not used"
    if gradients:
        got, got_gradients = result(ours, given, True)

    def judge(expected):
        compare(mode, got, expected[0])
        if got_gradients.keys() != expected[1].keys():
            raise Wrong(f"{mode}: other parameters have gradients")
        largest = [float(g.abs().max()) for g in expected[1].values() if g.numel()]
        for name, gradient in expected[1].items():
            what = f"{mode}: gradient of {name}"
            compare(what, got_gradients[name], gradient, max(largest, default=0.0))

    known = None if gradients else found
    return right(beside(lambda: result(model, given, gradients), judge, known))


def right(notes):
    return "; ".join(("right", *notes))


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
        model.generate(**given, **options)
    except Exception as e:
        return f"eager fails: {said(e)}"
    calls.clear()
    got = ours.generate(**given, **options)
    if not calls:
        return "not used"

    def judge(expected):
        if not torch.equal(got.sequences, expected.sequences):
            raise Wrong("generation: other tokens")
        for a, b in zip(got.logits, expected.logits, strict=True):
            compare("generation", a, b)

    return right(beside(lambda: model.generate(**given, **options), judge))


def said(error):
    """Its words; a Wrong's alone."""
    words = " ".join(str(error).split()).replace("|", "/")
    return f"{type(error).__name__}: {words[:110]}{'…' if len(words) > 110 else ''}"


def check(family, full):
    """(outcome, details): 'right' with its modes, 'refused', 'not used', 'untested', 'wrong'."""
    return check_with_parts(family, full)[:2]


def check_with_parts(family, full):
    """check's, of the first of the family's classes that asks for attention, and {config class of a
    part: what is known of it}."""
    config_class, found = CONFIG_MAPPING[family], []
    try:
        classes = model_classes(config_class)
    except ModuleNotFoundError as e:
        return "untested", f"no small model: {said(e)}", {}
    for model_class in classes:
        found.append(check_class(model_class, config_class, full))
        if found[-1][0] in RANK[:3]:
            return found[-1]
    # What got furthest says most.
    found.sort(key=lambda x: (RANK.index(x[0]), not x[1].startswith("eager"), x[1] == NO_INPUTS))
    return found[0] if found else ("untested", "no model class of its own", {})


def check_class(model_class, config_class, full):
    try:
        model = build(model_class, config_class)
    except Exception as e:
        return "untested", f"no small model: {said(e)}", {}
    if sum(p.numel() for p in model.parameters()) > LARGEST:
        return "untested", "no small model: some of its sizes are fixed", {}
    let_masks_be_read_as_here()
    try:
        ours = rebuilt(model, "fa_cpp")
    except Exception as e:
        parts = {type(module.config).__name__: "refused" for module in parts_of(model)}
        return "refused", f"by transformers: {said(e)}", parts
    parts = watch_parts(ours)
    return *beside_eager(model, ours, full, parts), parts


def parts_of(model):
    """The modules that have a config of another class than the model's."""
    configs = ((module, getattr(module, "config", None)) for module in model.modules())
    classes = (transformers.PreTrainedConfig, type(model.config))
    return [m for m, c in configs if isinstance(c, classes[0]) and type(c) is not classes[1]]


def watch_parts(model):
    """{name of a part's config class: 'not used'}, filled as the parts run."""
    parts = {}

    def ran(module, *_):
        parts.setdefault(type(module.config).__name__, "not used")

    for module in parts_of(model):
        module.register_forward_hook(ran)
    return parts


def beside_eager(model, ours, full, parts):
    done = {}
    try:
        for mode in (*MODES, *(("generation",) if full else ())):
            if mode == "generation":
                done[mode] = check_generation(model, ours)
            else:
                done[mode] = check_mode(model, ours, mode, full)
            if done[mode].startswith("right"):
                parts.update({type(config).__name__: "right" for config in calls})
            calls.clear()
            if set(done.values()) == {"not used"}:  # nor in the other modes
                break
    except Exception as e:
        named = isinstance(e, NotImplementedError | ValueError | TypeError) and ours_raised(e)
        return "refused" if named else "wrong", said(e)
    modes = [mode for mode, outcome in done.items() if outcome.startswith("right")]
    if modes:
        notes = dict.fromkeys(n for mode in modes for n in done[mode].split("; ")[1:])
        return "right", "; ".join((", ".join(modes), *notes))
    if "not used" in done.values():
        return "not used", ""
    return "untested", next((x for x in done.values() if x != "none"), NO_INPUTS)


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
    """{family: (outcome, details)}; 'part' for a family that is known from another's model.

    Those in `full` have gradients and generation."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # of the processes: no config is to be looked up
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(processes, context, start) as pool:
        futures = {name: pool.submit(check_with_parts, name, name in full) for name in names}
        return with_parts({name: future.result() for name, future in futures.items()})


def with_parts(results):
    outcomes = {name: result[:2] for name, result in results.items()}
    for name, (outcome, _) in outcomes.items():
        if outcome != "untested":
            continue
        config_name = CONFIG_MAPPING[name].__name__
        known = {parent: r[2][config_name] for parent, r in results.items() if config_name in r[2]}
        for what in ("right", "refused", "not used"):
            parents = [parent for parent, outcome in known.items() if outcome == what]
            if parents:
                outcomes[name] = "part", f"of `{parents[0]}`: {what}"
                break
    return outcomes


HEAD = f"""# transformers {transformers.__version__} under `fa_cpp`
A small model of each family with random weights beside its own eager attention: outputs (without
padding, padded at the right, padded at the left, packed by position_ids), gradients of all
parameters, and greedy generation with left padding. [python.md](python.md) says how masks are
taken. One run of `python tests/python/hf_sweep.py --full --write docs/transformers.md` wrote this
list.

- **right**: the same as eager, in the ways named. Two notes may follow. "{HIDDEN}":
  a row of padding that sees no key is 0 here and the mean of all values in eager, and it is part of
  the output or reaches it; the same as eager with such rows set to 0. "{BOOLEAN}"
  to the scores: here it hides, as in "sdpa"; the same as eager with it hiding.
- **refused**: an error by name, with its words.
- **not used**: the family has attention of its own or none, and never calls the one asked for.
- **part**: not run by itself here; what its modules did in the model of the family named.
- **untested**: no small model of it could be built or fed here; nothing is known.

| family | outcome | |
|---|---|---|
"""


def listed():
    """{family: outcome} of the list that is kept."""
    rows = [line.split("|") for line in LIST.read_text().splitlines() if line.startswith("| `")]
    return {row[1].strip(" `"): row[2].strip() for row in rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="gradients and generation, too")
    parser.add_argument("--write", type=pathlib.Path, help="the list")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("families", nargs="*", help="all by default")
    args = parser.parse_args()
    names = args.families or families()
    results = sweep(names, names if args.full else (), args.processes)
    rows = [f"| `{name}` | {outcome} | {why} |\n" for name, (outcome, why) in results.items()]
    if args.write:
        args.write.write_text(HEAD + "".join(rows))
    print("".join(rows if args.families else [r for r in rows if "| wrong |" in r]), end="")
    outcomes = [outcome for outcome, _ in results.values()]
    print({outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))})
    return "wrong" in outcomes


if __name__ == "__main__":
    sys.exit(main())
