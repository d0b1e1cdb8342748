"""What dir(), help() and typing say of the public names, and numbers that are none."""

import functools
import importlib
import inspect
import subprocess
import sys
import typing

import numpy as np
import pytest
import torch

import flashattn
from flashattn import bert_padding
from flashattn.layers.rotary import apply_rotary_emb

FUNCTIONS = [
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
]
PRIVATE = [  # of flash_attn, which other libraries call
    "_flash_attn_backward",
    "_flash_attn_forward",
    "_flash_attn_varlen_backward",
    "_flash_attn_varlen_forward",
    "_get_block_size_n",
]
PUBLIC = {
    "flashattn": [
        *("AttentionOptions", "KVCache", "OutOfPages"),
        *("attention", "attention_backward", "bert_padding"),
        *(
            "flash_attn_interface",
            "hf",
            "install_as_flash_attn",
            "layers",
            "merge",
            "prepare",
            "vllm",
        ),
        *FUNCTIONS,
    ],
    "flashattn.flash_attn_interface": ["USE_TRITON_ROCM", *PRIVATE, *FUNCTIONS],
    "flashattn.bert_padding": [
        *("index_first_axis", "index_put_first_axis", "pad_input", "unpad_input"),
        "unpad_input_for_concatenated_sequences",
    ],
    "flashattn.hf": ["attention_forward", "attention_mask", "register"],
    "flashattn.vllm": ["flash_attn_varlen_func", "get_scheduler_metadata"],
    "flashattn.layers.rotary": ["apply_rotary_emb", "apply_rotary_emb_func"],
}


@pytest.mark.parametrize("name", PUBLIC)
def test_dir_lists_what_is_offered(name):
    module = importlib.import_module(name)
    listed = [x for x in dir(module) if not (x.startswith("__") and x.endswith("__"))]
    assert listed == sorted(PUBLIC[name])
    assert {"__doc__", "__name__", "__all__"} <= set(dir(module))
    assert set(module.__all__) <= set(listed)


@pytest.mark.parametrize("name", PUBLIC)
def test_returns_are_told(name):
    module = importlib.import_module(name)
    for public in PUBLIC[name]:
        function = getattr(module, public)
        if not inspect.isfunction(function):
            continue
        assert "Any" not in str(inspect.signature(function).return_annotation), public
        assert typing.get_type_hints(function)["return"] is not typing.Any, public


def test_returns_are_told_without_torch_and_numpy():
    program = """if True:
        import sys, typing
        sys.modules["torch"] = sys.modules["numpy"] = None
        import flashattn
        for name in ("attention", "attention_backward", "merge", "prepare"):
            assert "Any" not in str(typing.get_type_hints(getattr(flashattn, name))["return"]), name
        """
    subprocess.run([sys.executable, "-c", program], check=True)


def ones(*shape):
    return torch.ones(shape)


def bounds():
    return torch.tensor([0, 4], dtype=torch.int32)


Q = ones(1, 4, 2, 8)
ARRAYS = [np.ones((1, 4, 2, 8), np.float32)] * 3
PACKED = [np.ones((4, 2, 8), np.float32)] * 3
CU = dict(cu_seqlens_q=bounds().numpy(), cu_seqlens_k=bounds().numpy())
attention = functools.partial(flashattn.attention, *ARRAYS)
packed = functools.partial(flashattn.attention, *PACKED, **CU)
varlen = functools.partial(flashattn.flash_attn_varlen_func, *[Q[0]] * 3)
with_kvcache = functools.partial(flashattn.flash_attn_with_kvcache, *[Q] * 3)
rotary = functools.partial(apply_rotary_emb, Q, ones(9, 4), ones(9, 4))
backward = functools.partial(
    flashattn.attention_backward, ARRAYS[0], *ARRAYS, ARRAYS[0], np.ones((1, 2, 4), np.float32)
)

INTEGERS = {
    "num_threads": lambda n: attention(num_threads=n),
    "num_threads of backward": lambda n: backward(num_threads=n),
    "num_threads of prepare": lambda n: flashattn.prepare(*ARRAYS, num_threads=n),
    "num_threads of torch": lambda n: flashattn.attention(Q, Q, Q, num_threads=n),
    "dropout_seed": lambda n: attention(dropout_p=0.5, dropout_seed=n),
    "dropout_seed unused": lambda n: attention(dropout_seed=n),
    "dropout_offset": lambda n: attention(dropout_p=0.5, dropout_offset=n),
    "window": lambda n: attention(window=(0, n)),
    "window_size": lambda n: flashattn.flash_attn_func(Q, Q, Q, window_size=(n, 0)),
    "max_seqlen_q": lambda n: packed(max_seqlen_q=n),
    "max_seqlen_k": lambda n: packed(max_seqlen_k=n),
    "max_seqlen_q of varlen": lambda n: varlen(bounds(), bounds(), n, 4),
    "max_seqlen_k of varlen": lambda n: varlen(bounds(), bounds(), 4, n),
    "cache_seqlens": lambda n: with_kvcache(cache_seqlens=n),
    "num_splits": lambda n: with_kvcache(num_splits=n),
    "seqlen_offsets": lambda n: rotary(seqlen_offsets=n),
    "max_seqlen": lambda n: rotary(max_seqlen=n),
    "batch": lambda n: bert_padding.pad_input(ones(4, 3), torch.arange(4), n, 4),
    "seqlen": lambda n: bert_padding.pad_input(ones(4, 3), torch.arange(4), 4, n),
    "first_axis_dim": lambda n: bert_padding.index_put_first_axis(ones(4, 3), torch.arange(4), n),
}


OF_EACH_SEQUENCE = ("cache_seqlens", "seqlen_offsets")  # where they are tensors


@pytest.mark.parametrize("case", INTEGERS)
def test_integers_are_no_flags_and_no_floats(case):
    name = case.split()[0]
    for wrong, kind in (
        (True, "bool"),
        (np.True_, "bool"),
        (4.0, "float"),
        (np.float64(4), "float64"),
    ):
        with pytest.raises(TypeError, match=f"^{name}: is {kind}_?; expected an integer"):
            INTEGERS[case](wrong)
    INTEGERS[case](4)
    for integer in (np.int64(4), np.uint8(4), torch.tensor(4)):
        if case not in OF_EACH_SEQUENCE or not isinstance(integer, torch.Tensor):
            INTEGERS[case](integer)


NUMBERS = {
    "scale": lambda x: attention(scale=x),
    "softcap": lambda x: attention(softcap=x),
    "dropout_p": lambda x: attention(dropout_p=x),
    "softcap of backward": lambda x: backward(softcap=x),
    "scale of prepare": lambda x: flashattn.prepare(*ARRAYS, scale=x),
    "softmax_scale": lambda x: flashattn.flash_attn_func(Q, Q, Q, softmax_scale=x),
    "softcap of torch": lambda x: flashattn.flash_attn_func(Q, Q, Q, softcap=x),
    "dropout_p of torch": lambda x: flashattn.flash_attn_func(Q, Q, Q, dropout_p=x),
    "softmax_scale of varlen": lambda x: varlen(bounds(), bounds(), 4, 4, softmax_scale=x),
    "softmax_scale of the cache": lambda x: with_kvcache(softmax_scale=x),
    "softcap of the cache": lambda x: with_kvcache(softcap=x),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_are_no_flags(case):
    name = case.split()[0]
    for wrong in (True, False, np.True_):
        with pytest.raises(TypeError, match=f"^{name}: is bool_?; expected a number"):
            NUMBERS[case](wrong)
    for number in (0, 0.5, np.float32(0.5)):
        NUMBERS[case](number)
