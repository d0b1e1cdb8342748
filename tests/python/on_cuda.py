"""What the tests on a CUDA device have in common: their inputs, and kernels compiled beforehand.

Without a device whoever imports this is skipped, or with FA_REQUIRE_GPU=1 fails."""

import fcntl
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import flashattn

if not torch.cuda.is_available():
    if os.environ.get("FA_REQUIRE_GPU") == "1":
        raise RuntimeError("FA_REQUIRE_GPU=1, but torch finds no CUDA device")
    pytest.skip("needs a CUDA device", allow_module_level=True)

DEVICE = "cuda"
DTYPES = [torch.float16, torch.bfloat16]
run = flashattn.flash_attn_func


def normal(*shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype).to(DEVICE)


def inputs(dtype=torch.bfloat16, dim=64, dim_v=None, rows=150, keys=203, heads=4, heads_k=2):
    return (
        normal(2, rows, heads, dim, dtype=dtype, seed=1),
        normal(2, keys, heads_k, dim, dtype=dtype, seed=2),
        normal(2, keys, heads_k, dim_v or dim, dtype=dtype, seed=3),
    )


def int32(numbers):
    return torch.tensor(numbers, dtype=torch.int32, device=DEVICE)


OPTIONS = {
    "full": {},
    "causal": dict(causal=True),
    "window": dict(window_size=(30, 5)),
    "causal window": dict(causal=True, window_size=(40, -1)),
    "right window": dict(window_size=(-1, 7)),
    "scale": dict(softmax_scale=0.31),
    "scale 0": dict(softmax_scale=0.0),
    "negative scale": dict(softmax_scale=-0.2, causal=True),
    "softcap": dict(softcap=2.0, causal=True),
    "alibi": dict(alibi_slopes=normal(4, seed=4).abs()),
    "alibi of each sequence": dict(alibi_slopes=normal(2, 4, seed=4).abs(), causal=True),
    "sinks": dict(sinks=normal(4, seed=5), causal=True),
    "bias": dict(bias=normal(2, 4, 150, 203, seed=6)),
    "broadcast bias": dict(bias=normal(1, 4, 1, 203, seed=6), causal=True),
    "bias that masks": dict(bias=normal(2, 1, 150, 203, seed=6).where(normal(203) > 0, -torch.inf)),
    "all": dict(
        causal=True,
        window_size=(60, 0),
        softcap=3.0,
        alibi_slopes=normal(4, seed=4).abs(),
        sinks=normal(4, seed=5),
        bias=normal(1, 1, 150, 203, seed=6),
    ),
}


LENGTHS = [(1, 1), (1, 500), (203, 130), (64, 64), (500, 3)]
PREPARES = {"softmax_scale": "scale", "window_size": "window"}  # names of prepare's
HEAD_DIMS = [(8, 8), (40, 40), (72, 64), (96, 96), (128, 128), (192, 128), (256, 256), (20, 13)]
WIDE_HEAD_DIMS = [(264, 264), (512, 512), (300, 261), (64, 512), (512, 40), (576, 512)]


def packed_inputs(dtype):
    rows, keys = [130, 0, 5, 64], [200, 9, 0, 70]
    q = normal(sum(rows) + 7, 4, 64, dtype=dtype, seed=1)  # the last tokens are of no sequence
    k, v = (normal(sum(keys) + 9, 2, 64, dtype=dtype, seed=s) for s in (2, 3))
    return (q, k, v), [int32([0, *torch.tensor(n).cumsum(0).tolist()]) for n in (rows, keys)]


def unaligned(t):
    return torch.cat((t[..., :1], t), dim=-1)[..., 1:]


@pytest.fixture(scope="module", autouse=True)
def prepared(request, tmp_path_factory):
    """Gives the GPU to one file at a time, where several processes run tests, and compiles."""
    with open(tmp_path_factory.getbasetemp().parent / "device.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if request.session.testscollected >= 20:  # a chosen few compile their own
            prepare_most()
        yield


def prepare_most():
    """The kernels of most tests, compiled many at a time: one by one they take three minutes. (What
    a test has none of here it compiles itself; that of many threads wants to.)"""
    calls = [(inputs(dtype), options) for dtype in DTYPES for options in OPTIONS.values()]
    causal = dict(causal=True)
    for dtype in DTYPES:
        calls += [(inputs(dtype, *dims), causal) for dims in HEAD_DIMS + WIDE_HEAD_DIMS]
        calls += [(inputs(dtype, dim), dict(causal=True, dropout_p=0.3)) for dim in (64, 128)]
        tensors, (of_q, of_k) = packed_inputs(dtype)
        lengths = dict(cu_seqlens_q=of_q, cu_seqlens_k=of_k, max_seqlen_q=130, max_seqlen_k=210)
        calls += [(tensors, dict(lengths, causal=on)) for on in (False, True)]
    calls += [(inputs(dim=dim), {}) for dim in (64, 128)]
    calls += [(tuple(map(unaligned, inputs(dim=dim))), {}) for dim in (64, 128)]
    calls += [(inputs(rows=rows, keys=keys), causal) for rows, keys in LENGTHS]
    calls += [(inputs(dim=20), options) for options in (causal, dict(dropout_p=0.5))]
    calls += [
        (inputs(rows=4096, keys=4096), causal),
        (inputs(dim=80), dict(softcap=2.0, causal=True)),
    ]
    used_q, used_k = int32([130, 150]), int32([203, 77])
    calls += [(inputs(), dict(seqused_q=used_q, seqused_k=used_k, causal=True))]
    calls += [
        (inputs(rows=1, keys=40), options)
        for options in (dict(dropout_p=0.5), dict(seqused_k=int32([3, 4])))
    ]
    calls += [(inputs(rows=rows, keys=300), dict(seqused_k=used_k, causal=True)) for rows in (1, 3)]

    def prepare(call):
        tensors, options = call
        flashattn.prepare(*tensors, **{PREPARES.get(n, n): x for n, x in options.items()})

    with ThreadPoolExecutor(2 * os.cpu_count()) as pool:
        list(pool.map(prepare, calls))
