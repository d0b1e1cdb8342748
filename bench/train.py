#!/usr/bin/env python3
"""Trains a GPT-2 with each attention in turn, step by step in shuffled order: losses, step times.

A model of GPT-2's size (124 million parameters: 12 layers, 12 heads of 64) in bfloat16, with AdamW,
on the bytes of Python's standard library. Models of one seed begin with the same weights and see
the same batches; how far two seeds are apart is the noise that their losses are held against.

With --graph a CUDA graph replays each model's step, so that the host of its modules takes no part.
"""

import argparse
import functools
import json
import math
import pathlib
import random
import statistics
import sys
import sysconfig

import machine
import torch
from gpu_flags import checked
from torch import nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

LAYERS, HEADS, WIDTH, VOCABULARY = 12, 12, 768, 50304  # GPT-2's, the last one rounded up to 128
LEARNING_RATE, WARMUP = 6e-4, 20  # steps
BEFORE_GRAPH = 3  # steps run before a graph records one, which make what is made once
SMOOTH = 20  # steps whose mean is one point of a loss curve


def attend_ours(q, k, v):
    import flashattn

    return flashattn.flash_attn_func(q, k, v, causal=True)


def attend_sdpa(backend):
    def attend(q, k, v):
        with sdpa_kernel(backend):
            out = functional.scaled_dot_product_attention(
                q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
            )
        return out.transpose(1, 2)

    return attend


ATTENTIONS = {
    "flashattn": attend_ours,
    "fa2": attend_sdpa(SDPBackend.FLASH_ATTENTION),
    "cudnn": attend_sdpa(SDPBackend.CUDNN_ATTENTION),
}


class Block(nn.Module):
    def __init__(self, attend):
        super().__init__()
        self.attend = attend
        self.before_attention, self.before_mlp = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        qkv = self.qkv(self.before_attention(x)).unflatten(-1, (3, HEADS, WIDTH // HEADS))
        x = x + self.out(self.attend(*qkv.unbind(2)).flatten(2))
        return x + self.down(functional.gelu(self.up(self.before_mlp(x)), approximate="tanh"))


class Gpt2(nn.Module):
    def __init__(self, attend, seqlen):
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(seqlen, WIDTH)
        self.blocks = nn.Sequential(*[Block(attend) for _ in range(LAYERS)])
        self.end = nn.LayerNorm(WIDTH)
        self.apply(self._begin)
        for block in self.blocks:  # the residual stream grows with the depth
            for layer in (block.out, block.down):
                nn.init.normal_(layer.weight, std=0.02 / math.sqrt(2 * LAYERS))

    @staticmethod
    def _begin(layer):
        if isinstance(layer, nn.Linear | nn.Embedding):
            nn.init.normal_(layer.weight, std=0.02)
        if isinstance(layer, nn.Linear):
            nn.init.zeros_(layer.bias)

    def loss(self, text):
        """text [batch, seqlen + 1]: each token is to be told from those before it."""
        x = self.tokens(text[:, :-1]) + self.places.weight
        logits = self.end(self.blocks(x)) @ self.tokens.weight.T
        return functional.cross_entropy(logits.flatten(0, 1).float(), text[:, 1:].flatten())


class Training:
    """One model on its way."""

    def __init__(self, name, options, seed):
        torch.manual_seed(seed)
        self.model = Gpt2(ATTENTIONS[name], options.seqlen).cuda()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=torch.tensor(LEARNING_RATE, device="cuda") if options.graph else LEARNING_RATE,
            betas=(0.9, 0.95),
            fused=True,
            capturable=options.graph,
        )
        self.losses, self.times = [], []
        self.graphed, self.graph = options.graph, None
        self.side = torch.cuda.Stream()

    def step(self, text):
        self._set_rate(LEARNING_RATE * min(1, (len(self.losses) + 1) / WARMUP))
        if not self.graphed:
            work = functools.partial(self._work, text)
        elif len(self.losses) < BEFORE_GRAPH:
            work = functools.partial(self._aside, text)
        else:
            if self.graph is None:
                self._record(text)
            self.text.copy_(text)
            work = self._replay
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        loss = work()
        end.record()
        torch.cuda.synchronize()
        self.losses.append(loss.item())
        self.times.append(begin.elapsed_time(end))

    def _set_rate(self, rate):
        for group in self.optimizer.param_groups:
            if self.graphed:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _work(self, text):
        # A graph must not take casts of the weights from a cache that was filled before it.
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=not self.graphed):
            loss = self.model.loss(text)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def _aside(self, text):
        """On a stream of its own, as before a recording."""
        self.side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.side):
            loss = self._work(text)
        torch.cuda.current_stream().wait_stream(self.side)
        return loss

    def _record(self, text):
        self.text, self.graph = text.clone(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.side):
            self.loss = self._work(self.text)

    def _replay(self):
        self.graph.replay()
        return self.loss


def corpus():
    files = sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return torch.frombuffer(
        bytearray(b"".join(file.read_bytes() for file in files)), dtype=torch.uint8
    )


def train(options, seed):
    text = corpus()
    models = {name: Training(name, options, seed) for name in options.attentions}
    order, places = random.Random(seed), torch.Generator().manual_seed(seed)
    for _ in range(options.steps):
        begins = torch.randint(len(text) - options.seqlen - 1, (options.batch,), generator=places)
        batch = torch.stack([text[b : b + options.seqlen + 1] for b in begins.tolist()])
        batch = batch.long().cuda()
        for name in order.sample(options.attentions, len(options.attentions)):
            models[name].step(batch)
    return {name: {"losses": m.losses, "milliseconds": m.times} for name, m in models.items()}


def smooth(losses):
    return [statistics.fmean(losses[i : i + SMOOTH]) for i in range(0, len(losses), SMOOTH)]


def apart(a, b):
    """The mean distance of two loss curves."""
    return statistics.fmean(abs(x - y) for x, y in zip(smooth(a), smooth(b), strict=True))


def report(result, options):
    runs, first = result["runs"], options.attentions[0]
    print(f"{'':10} {'ms a step':>10} {'last loss':>10}  distance of its losses from {first}'s")
    for name in options.attentions:
        times = [t for run in runs for t in run[name]["milliseconds"][options.steps // 4 :]]
        losses = [run[name]["losses"] for run in runs]
        last = statistics.fmean(smooth(run)[-1] for run in losses)
        distance = statistics.fmean(
            apart(run[name]["losses"], run[first]["losses"]) for run in runs
        )
        print(f"{name:10} {statistics.median(times):10.2f} {last:10.4f}  {distance:.5f}")
    if len(runs) > 1:
        noise = apart(runs[0][first]["losses"], runs[1][first]["losses"])
        print(f"between the first two seeds: {noise:.5f}")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--attentions", nargs="+", choices=ATTENTIONS, default=list(ATTENTIONS), help="all"
    )
    for name, value in {"steps": 200, "batch": 8, "seqlen": 1024, "seeds": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=str(value))
    parser.add_argument("--graph", action="store_true", help="replay each step from a CUDA graph")
    parser.add_argument("--json", type=pathlib.Path, help="also write every loss and time to it")
    options = checked(parser, sys.argv[1:], ["steps", "batch", "seqlen", "seeds"])
    if options.graph and options.steps <= BEFORE_GRAPH:
        parser.error(f"--steps: is {options.steps}; --graph records the step after {BEFORE_GRAPH}")
    return options


def main():
    options = parse()
    result = {
        "machine": machine.describe("cuda"),
        "versions": machine.versions([]),
        "commit": machine.commit(),
        **{name: getattr(options, name) for name in ("steps", "batch", "seqlen", "graph")},
        "runs": [train(options, seed) for seed in range(options.seeds)],
    }
    print(f"{result['machine']['name']}; commit {result['commit']}")
    report(result, options)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
