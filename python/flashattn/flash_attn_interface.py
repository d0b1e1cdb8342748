"""The functions of flash_attn 2.8 (flash_attn.flash_attn_interface): the same signatures, defaults
and returns, on every device and dtype that the library has, with more keywords at the end.

Shapes (B batch, S sequence length, T tokens of all sequences, H heads, D head_dim):

    q [B, Sq, Hq, D], k [B, Sk, Hk, D], v [B, Sk, Hk, Dv]    varlen: [Tq, Hq, D], [Tk, Hk, D], ...
    out [B, Sq, Hq, Dv]                                      varlen: [Tq, Hq, Dv]
    lse float32 [B, Hq, Sq], natural logarithm               varlen: [Hq, Tq]

dtypes are float16, bfloat16 and, on the CPU, float32. Query head h reads key head h / (Hq / Hk).
Where the two packages differ: a row that sees no key has lse = -inf (flash_attn 2: +inf); ALiBi
under a causal mask is -slope * |i + Sk - Sq - j| as without one, which shifts lse; S_dmask is the
probabilities themselves, [B, Hq, Sq, Sk] not rounded up.

Keywords beyond flash_attn's (flash_attn_with_kvcache: sinks, batch_invariant, family, out):
`bias` ([B or 1, Hq or 1, Sq or 1, Sk], added to the scores, differentiable, -inf masks; or bool,
True where a key is seen; not with varlen), `sinks` ([Hq], a logit in the softmax's denominator
only, differentiable), `batch_invariant`, `family` ("auto", "sm80", "sm90": CUDA kernels), `out`
(written in place, without gradients), `return_lse` (returns (out, lse); lse is differentiable),
`seqused_q` and `seqused_k`. A row whose bias is the lowest number (finfo.min) everywhere is not
masked: its lse loses the number of keys to rounding, so that its gradients are too large by this
factor.
"""

from __future__ import annotations

from ._flash_attn import flash_attn_func, flash_attn_varlen_func
from ._kvcache import flash_attn_with_kvcache
from ._names import listing
from ._packed import (
    flash_attn_kvpacked_func,
    flash_attn_qkvpacked_func,
    flash_attn_varlen_kvpacked_func,
    flash_attn_varlen_qkvpacked_func,
)
from ._private import (
    _flash_attn_backward,
    _flash_attn_forward,
    _flash_attn_varlen_backward,
    _flash_attn_varlen_forward,
    _get_block_size_n,
)

__all__ = [
    "_flash_attn_backward",
    "_flash_attn_forward",
    "_flash_attn_varlen_backward",
    "_flash_attn_varlen_forward",
    "_get_block_size_n",
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
]

USE_TRITON_ROCM = False

__dir__ = listing(globals(), "USE_TRITON_ROCM")
