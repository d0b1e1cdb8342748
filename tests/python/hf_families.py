"""Tiny models of every family of transformers, derived from the config classes."""

import copy
import inspect
import re

import torch
import transformers

VOCAB, HIDDEN, HEADS, LAYERS, IMAGE, PATCH = 99, 64, 4, 2, 32, 8
# What a field's name looks like, and its small value; the first that matches.
RULES = [
    (r"vocab_size$|^n_token$|vocab_size_per_layer_input", VOCAB),
    (r"codebook_size$", 64),
    (r"^(max|n)_?position|max_(source|target)_positions|^n_ctx$|max_seq_len|max_sequence_len", 128),
    (r"kv_head|key_value_head|num_kv|n_head_kv|num_key_value_groups", 2),
    (r"attention_heads?$|^num_heads$|^n_heads?$|num_.*heads?$", HEADS),
    (r"rope_head_dim|^rotary_dim$", 8),
    (r"head_dim|head_size|^d_kv$|kv_channels|lora_rank", 16),
    (r"num_experts_per_tok|experts_top_k|moe_topk|top_k_experts|num_selected_experts|moe_k$", 2),
    (r"^(n_group|topk_group|num_expert_group|num_limited_groups)|shared_experts", 1),
    (r"experts$|moe_num_experts", 4),
    (r"sliding_window$|^local_attention$|attention_window", 6),
    (r"attention_chunk_size", 8),
    (r"image_size$|img_size$|^input_size$", IMAGE),
    (r"^patch_size$", PATCH),
    (r"layers$|^n_layers?$|^depth$|^num_blocks$", LAYERS),
    (r"(intermediate|ffn|mlp|feed_?forward|inner).*(size|dim)$|^d_ff$|^n_inner$", 64),
    (r"(hidden|embed|embedding|projection|model|output)_?(size|dims?)$|^d_model$|^n_embd$", HIDDEN),
    (r"^dim$|^emb_dim$|^width$|hidden_channels$", HIDDEN),
]
TOKEN = re.compile(r"(token_id|_id|token_index|_idx)$")
# Fields that have no default.
MISSING = dict(
    head_dim=16, vocab_size=VOCAB, pad_token_id=0, num_key_value_heads=2, prediction_length=4
)
LISTS = ("layer_types", "mlp_layer_types", "layers_block_type")
MROPE = dict(rope_type="default", rope_theta=10000.0, mrope_section=[2, 3, 3])
OVERRIDES = {
    "cohere_compass_text": dict(layer_types=["full_attention", "sliding_attention"]),
    "esmc": dict(num_key_value_heads=HEADS),
    "gpt_neo": dict(attention_types=[[["global", "local"], 1]], window_size=6),
    "bamba": dict(mamba_n_heads=8, mamba_d_head=16),
    "granitemoehybrid": dict(mamba_n_heads=8, mamba_d_head=16),
    "falcon_h1": dict(mamba_n_heads=8, mamba_d_head=16, mamba_d_ssm=128),
    "mamba2": dict(num_heads=8, head_dim=16),
    "lfm2_moe": dict(layer_types=["conv", "full_attention"]),
    "moonshine_streaming": dict(encoder_config=dict(num_key_value_heads=2)),
    "dots1": dict(n_routed_experts=4),
    "gemma4_assistant": dict(hidden_size_per_layer_input=0),
    "qwen4_exp_text": dict(token_budget=16, compress_ratio=4),
    "reformer": dict(is_decoder=True),
    "qwen2_vl_text": dict(rope_parameters=MROPE),
    "qwen2_5_vl_text": dict(rope_parameters=MROPE),
}
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


def shrink(config_class):
    """A config of the class with few and small layers."""
    base, values = config_class(), {}
    for name in inspect.signature(config_class.__init__).parameters:
        try:
            value = getattr(base, name, None)
        except Exception:  # a field that differs by layer
            continue
        if isinstance(value, transformers.PreTrainedConfig):
            values[name] = shrink(type(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            values[name] = small(name, value)
        elif value is None and name in MISSING:
            values[name] = MISSING[name]
        elif name in ("rope_parameters", "rope_scaling") and isinstance(value, dict):
            values[name] = small_rope(value)
        elif name in LISTS and isinstance(value, list | tuple) and value:
            kinds = list(dict.fromkeys(value))
            values[name] = (kinds * LAYERS)[: max(LAYERS, len(kinds))]
    even_out(values)
    if isinstance(values.get("kv_lora_rank"), int):  # latent attention has no groups
        values["num_key_value_heads"] = HEADS
    values.update(OVERRIDES.get(config_class.model_type, {}))
    config = config_class(**values)
    for name, value in list(vars(config).items()):
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    return config


def model_classes(config_class):
    found = []
    for mapping in MAPPINGS:
        try:
            classes = getattr(transformers, mapping)[config_class]
        except (KeyError, ValueError):
            continue
        found += classes if isinstance(classes, tuple | list) else [classes]
    return list(dict.fromkeys(found))


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


def build(config_class):
    """The family's first model class that can be built, with eager attention; None without any."""
    error = None
    for model_class in model_classes(config_class):
        try:
            torch.manual_seed(0)
            config = shrink(config_class)
            return randomise(model_class._from_config(config, attn_implementation="eager"))
        except Exception as e:
            error = error or e
    if error is not None:
        raise error
    return None


def rebuilt(model, implementation):
    """The same model, built with another attention."""
    config = copy.deepcopy(model.config)
    other = type(model)._from_config(config, attn_implementation=implementation)
    other.load_state_dict(model.state_dict())
    return other.eval()
