"""What a type checker learns of the results."""

import os
import subprocess
import sys

PROGRAM = """
import numpy as np
import torch
from torch import Tensor
from typing_extensions import assert_type

import flashattn
from flashattn import flash_attn_func, flash_attn_varlen_func, flash_attn_with_kvcache
from flashattn.flash_attn_interface import flash_attn_qkvpacked_func as qkvpacked

t = torch.zeros(1, 4, 2, 8)
flag: bool = t.is_cuda
pair = tuple[Tensor, Tensor]
triple = tuple[Tensor, Tensor, Tensor]

assert_type(flash_attn_func(t, t, t, 0.0, None, True), Tensor)
assert_type(flash_attn_func(t, t, t, window_size=(3, None), bias=t, family="sm80"), Tensor)
assert_type(flash_attn_func(t, t, t, return_lse=True), pair)
assert_type(flash_attn_func(t, t, t, causal=True, return_attn_probs=True), triple)
assert_type(flash_attn_func(t, t, t, return_lse=flag), Tensor | pair | triple)
assert_type(flash_attn_varlen_func(t, t, t, t, t, 4, 4, sinks=t), Tensor)
assert_type(qkvpacked(t, return_lse=True), pair)
assert_type(flash_attn_with_kvcache(t, t, t, cache_seqlens=3), Tensor)
assert_type(flash_attn_with_kvcache(t, t, t, return_softmax_lse=True), pair)
cache = flashattn.KVCache(2, 8, 4, 2, 8)
assert_type(cache.add(), int)
assert_type(cache.block_table([0]), Tensor)
assert_type(flashattn.attention(t, t, t), Tensor)
assert_type(flashattn.merge(t, t, t, t), pair)
a = np.zeros((1, 4, 2, 8), np.float32)
out, lse = flashattn.attention(a, a, a, return_lse=True)
Array = np.ndarray[tuple[int, int, int, int], np.dtype[np.float32]]
assert_type(out, Array)
assert_type(flashattn.attention_backward(a, a, a, a, out, lse)["dq"], Array)
flash_attn_func(t, t, t, colour=1)  # type: ignore[call-overload]
flash_attn_varlen_func(t, t, t, t, t, 4, 4, bias=t)  # type: ignore[call-overload]
"""


def test_return_types(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    options = ["--strict", "--config-file", os.devnull, "--cache-dir", str(tmp_path / "cache")]
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(program)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
