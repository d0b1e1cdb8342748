"""Run in an environment with the wheel and NumPy alone: attention works, the rest says why not."""

import importlib.util

import numpy as np

import flashattn

assert importlib.util.find_spec("torch") is None
random = np.random.default_rng(0)
q, k, v = (random.standard_normal((2, n, 3, 16)).astype(np.float32) for n in (5, 70, 70))
scores = np.einsum("bihd,bjhd->bhij", q.astype(np.float64), k) / 4
weights = np.exp(scores - scores.max(-1, keepdims=True))
exact = np.einsum("bhij,bjhd->bihd", weights / weights.sum(-1, keepdims=True), v)
out, lse = flashattn.attention(q, k, v, return_lse=True)
assert np.abs(out - exact).max() < 1e-5
gradients = flashattn.attention_backward(np.ones_like(out), q, k, v, out, lse)
assert np.abs(gradients["dv"].sum(1) - q.shape[1]).max() < 1e-4  # every row of P sums to 1
for name in ("flash_attn_func", "hf", "bert_padding", "KVCache"):
    try:
        getattr(flashattn, name)
    except ImportError as error:
        assert "needs PyTorch: pip install torch" in str(error), error
    else:
        raise AssertionError(f"flashattn.{name} without PyTorch")
try:
    flashattn.attention(q, k[:, :, :2], v)
except ValueError as error:
    assert "k: has 2 heads and q 3" in str(error), error
else:
    raise AssertionError("accepted 2 heads for 3")
print("without PyTorch: attention and its gradients work")
