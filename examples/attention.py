"""Causal attention of packed sequences and its gradients, in NumPy."""

import itertools

import numpy as np

import flashattn

lengths = np.array([5, 300, 64])
cu_seqlens = np.concatenate(([0], lengths.cumsum())).astype(np.int32)
tokens = int(cu_seqlens[-1])

random = np.random.default_rng(0)
q = random.standard_normal((tokens, 8, 64), dtype=np.float32)  # tokens, heads, head_dim
k, v = (random.standard_normal((tokens, 2, 64), dtype=np.float32) for _ in range(2))
options = dict(causal=True, cu_seqlens_q=cu_seqlens, cu_seqlens_k=cu_seqlens)

out, lse = flashattn.attention(q, k, v, return_lse=True, **options)
gradients = flashattn.attention_backward(np.ones_like(out), q, k, v, out, lse, **options)
print("out", out.shape, "lse", lse.shape, *(f"{n} {g.shape}" for n, g in gradients.items()))

# Each sequence alone gives the same bits.
for begin, end in itertools.pairwise(cu_seqlens):
    alone = flashattn.attention(*(x[None, begin:end] for x in (q, k, v)), causal=True)
    assert np.array_equal(alone[0], out[begin:end])
print("each sequence is the same alone")
