"""Text of a Hugging Face model through KVCache: greedily with a shared prefix, then by beams."""

import torch
from transformers import AttentionInterface, AttentionMaskInterface, LlamaConfig, LlamaForCausalLM

from flashattn import KVCache, flash_attn_with_kvcache


def attention(module, q, k, v, mask, scaling=None, cache=None, used=None, **others):
    """A layer of the model, as transformers calls it: q, k, v [batch, heads, new tokens, dim]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    pages = cache.k[module.layer_idx], cache.v[module.layer_idx]
    out = flash_attn_with_kvcache(q, *pages, k, v, softmax_scale=scaling, causal=True, **used)
    return out, None


AttentionInterface.register("paged", attention)
AttentionMaskInterface.register("paged", lambda **what: None)  # causal is all


def step(model, cache, sequences, tokens):
    """Runs new tokens [batch, n] of the sequences; returns log p of the next token [batch, V]."""
    cache.reserve(sequences, tokens.shape[1])
    lengths = cache.cache_seqlens(sequences)
    used = dict(cache_seqlens=lengths, block_table=cache.block_table(sequences))
    position = lengths[:, None] + torch.arange(tokens.shape[1])
    result = model(tokens, position_ids=position, use_cache=False, cache=cache, used=used)
    cache.advance(sequences, tokens.shape[1], tokens)
    return result.logits[:, -1].log_softmax(-1)


def begin(model, cache, prompt):
    """A sequence with the prompt in the cache, where another's pages may be part of it."""
    sequence = cache.add(prompt)
    reused = cache.length(sequence)
    print(f"{reused} of {len(prompt)} tokens were in the cache")
    return sequence, step(model, cache, [sequence], prompt[None, reused:])


def greedy(model, cache, prompts, count):
    sequences, scores = zip(*(begin(model, cache, prompt) for prompt in prompts))
    tokens = [torch.cat(scores).argmax(-1, keepdim=True)]
    while len(tokens) < count:
        tokens.append(step(model, cache, sequences, tokens[-1]).argmax(-1, keepdim=True))
    for sequence in sequences:
        cache.free(sequence)
    return torch.cat(tokens, 1)


def beams(model, cache, prompt, count, width):
    """The most likely of `width` continuations; one that goes on in two ways is forked."""
    sequence, scores = begin(model, cache, prompt)
    sequences, tokens = [sequence], torch.empty(1, 0, dtype=torch.int64)
    while True:
        best, place = scores.flatten().topk(width)
        parent, token = place // scores.shape[1], place % scores.shape[1]
        tokens = torch.cat((tokens[parent], token[:, None]), 1)
        if tokens.shape[1] == count:
            return tokens[0]
        forks = [cache.fork(sequences[p]) for p in parent.tolist()]
        for sequence in sequences:
            cache.free(sequence)
        sequences = forks
        scores = best[:, None] + step(model, cache, sequences, token[:, None])


torch.manual_seed(0)
shape = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=3, vocab_size=100)
heads = dict(num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3)
config = LlamaConfig(**shape, **heads, bos_token_id=None, eos_token_id=None, pad_token_id=0)
model = LlamaForCausalLM(config).eval()
cache = KVCache(layers=3, pages=64, page_size=4, heads_k=2, head_dim=16)
prompts = torch.randint(1, 100, (2, 11))
prompts[1, :9] = prompts[0, :9]  # two pages and a token

with torch.no_grad():
    model.set_attn_implementation("paged")
    pair = greedy(model, cache, prompts, count=20)
    best = beams(model, cache, prompts[0], count=20, width=3)
    model.set_attn_implementation("eager")
    for given, options in (pair, {}), (best[None], dict(num_beams=3)):
        prompt = prompts[: len(given)]
        expected = model.generate(prompt, max_new_tokens=20, do_sample=False, **options)
        assert torch.equal(given, expected[:, 11:]), (given, expected)
print("transformers generates the same tokens:", *pair.tolist(), best.tolist(), sep="\n")
