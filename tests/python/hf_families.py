"""Tiny models of every family of transformers, derived from the config classes."""

import copy
import importlib
import inspect
import pkgutil
import re

import torch
import transformers

from hf_fields import HEADS, HIDDEN, LAYERS, LISTS, MISSING, OVERRIDES, RULES, TOKEN, VOCAB

MAPPINGS = (
    "MODEL_FOR_CAUSAL_LM_MAPPING",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
    "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING",
    "MODEL_MAPPING",
    "MODEL_FOR_PRETRAINING_MAPPING",
    "MODEL_FOR_BACKBONE_MAPPING",
)


def small(name, value):
    if TOKEN.search(name):
        return value if -1 <= value < VOCAB else 5
    for pattern, new in RULES:
        if re.search(pattern, name):
            return new if value > 0 else value
    return min(value, 64) if value > 512 else value


def small_rope(rope):
    rope = copy.deepcopy(rope)
    for part in (rope, *(p for p in rope.values() if isinstance(p, dict))):
        if "mrope_section" in part:
            part["mrope_section"] = [2, 3, 3] if len(part["mrope_section"]) == 3 else [2] * 4
    return rope


def even_out(values):
    """As many layers as the lists have kinds of them."""
    layers = max([LAYERS, *(len(values[name]) for name in LISTS if name in values)])
    for name in values:
        if name in LISTS:
            values[name] = (list(values[name]) * layers)[:layers]
        elif name in ("num_hidden_layers", "n_layer", "num_layers"):
            values[name] = layers


def small_list(name, values):
    """Heads by stage keep their ratios; stages have 2 layers at most."""
    if re.search(r"heads(_per_stage)?$", name):
        return [v // min(values) for v in values]
    if name == "depths":
        return [min(v, LAYERS) for v in values]
    if name == "decoder_in_channels":
        return [HIDDEN] * len(values)
    return values


def resnet(out_indices):
    """In the place of a backbone that another package would bring."""
    return transformers.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 64, 64],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_indices=[i for i in out_indices if i] or [4],
    )


def feature_maps(config):
    """As many outputs of a backbone as it has by default."""
    wanted = getattr(config, "out_indices", None) or []
    if wanted and hasattr(config, "depths"):
        return {"out_features": list(config.out_features)}
    if len(wanted) < 2:
        return {}
    layers = {"num_hidden_layers": len(wanted), "out_indices": list(range(1, len(wanted) + 1))}
    kept = ("reshape_hidden_states", "return_class_token")
    return {**layers, **{name: getattr(config, name) for name in kept if hasattr(config, name)}}


def small_part(config, more):
    if isinstance(config, transformers.TimmBackboneConfig):
        return resnet(config.out_indices)
    return shrink(type(config), {**feature_maps(config), **more})


def shrink(config_class, more=None):
    """A config of the class with few and small layers."""
    base, values = config_class(), {}
    overrides = {**OVERRIDES.get(config_class.model_type, {}), **(more or {})}
    for name in inspect.signature(config_class.__init__).parameters:
        try:
            value = getattr(base, name, None)
        except Exception:  # a field that differs by layer
            continue
        if isinstance(value, transformers.PreTrainedConfig):
            within = overrides.pop(name) if isinstance(overrides.get(name), dict) else {}
            values[name] = small_part(value, within)
        elif isinstance(value, int) and not isinstance(value, bool):
            values[name] = small(name, value)
        elif value is None and name in MISSING:
            values[name] = MISSING[name]
        elif name in ("rope_parameters", "rope_scaling") and isinstance(value, dict):
            values[name] = small_rope(value)
        elif name in LISTS and isinstance(value, list | tuple) and value:
            kinds = list(dict.fromkeys(value))
            values[name] = (kinds * LAYERS)[: max(LAYERS, len(kinds))]
        elif isinstance(value, list | tuple) and value and all(type(v) is int for v in value):
            smaller = type(value)(small_list(name, value))
            if smaller != value:
                values[name] = smaller
    even_out(values)
    if isinstance(values.get("kv_lora_rank"), int):  # latent attention has no groups
        values["num_key_value_heads"] = HEADS
    values.update(overrides)
    config = config_class(**values)
    for name, value in list(vars(config).items()):
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    return config


def own_classes(config_class):
    """Classes of the family's own files that are made from this config, largest last."""
    folder = config_class.__module__.rpartition(".")[0]
    found = []
    for module in pkgutil.iter_modules(importlib.import_module(folder).__path__):
        if not module.name.startswith("modeling_"):
            continue
        name = f"{folder}.{module.name}"
        for value in list(vars(importlib.import_module(name)).values()):
            if getattr(value, "config_class", None) is not config_class:
                continue
            runs = "_forward_unimplemented" not in getattr(value.forward, "__name__", "")
            if value.__module__ == name and runs and not value.__name__.endswith("PreTrainedModel"):
                found.append(value)
    return found


def model_classes(config_class):
    """What transformers' mappings name, then the other classes of this config."""
    found = []
    for mapping in MAPPINGS:
        try:
            classes = getattr(transformers, mapping)[config_class]
        except (KeyError, ValueError):
            continue
        found += classes if isinstance(classes, tuple | list) else [classes]
    return list(dict.fromkeys(found + own_classes(config_class)))


def randomise(model):
    """Weights with which attention matters: the initial ones are near 0, gates are 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if not p.is_floating_point() or p.numel() == 0:
                continue
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() >= 2:
                p.copy_(noise / max(1, p[0].numel()) ** 0.5)
            elif float(p.abs().max()) == 0:
                p.copy_(noise * 0.3)
    return model.eval()


def build(model_class, config_class):
    """A small model with eager attention."""
    torch.manual_seed(0)
    config = shrink(config_class)
    return randomise(model_class._from_config(config, attn_implementation="eager"))


def rebuilt(model, implementation):
    """The same model, built with another attention."""
    config = copy.deepcopy(model.config)
    other = type(model)._from_config(config, attn_implementation=implementation)
    # load_state_dict is slow where there are many modules.
    with torch.no_grad():
        for new, old in zip(other.state_dict().values(), model.state_dict().values(), strict=True):
            new.copy_(old)
    return other.eval()
