"""FlashAttention.cpp: exact attention, forward and backward, in memory linear in the sequence.

`attention`, `attention_backward`, `prepare` and `merge` take NumPy arrays and any DLPack tensors.
With PyTorch there are also the functions of flash_attn 2.8 by their names (`flash_attn_func`, ...),
`install_as_flash_attn` for programs written for it, `flashattn.hf.register` for transformers, and
`KVCache` for decoding.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

from ._array import AttentionOptions, attention, attention_backward, merge, prepare
from ._install import install_as_flash_attn
from ._names import listing

if TYPE_CHECKING:
    from ._paged_cache import KVCache, OutOfPages
    from .flash_attn_interface import (
        flash_attn_func,
        flash_attn_kvpacked_func,
        flash_attn_qkvpacked_func,
        flash_attn_varlen_func,
        flash_attn_varlen_kvpacked_func,
        flash_attn_varlen_qkvpacked_func,
        flash_attn_with_kvcache,
    )

__version__ = importlib.metadata.version("flashattn")

__all__ = [
    "AttentionOptions",
    "KVCache",
    "OutOfPages",
    "attention",
    "attention_backward",
    "flash_attn_func",
    "flash_attn_kvpacked_func",
    "flash_attn_qkvpacked_func",
    "flash_attn_varlen_func",
    "flash_attn_varlen_kvpacked_func",
    "flash_attn_varlen_qkvpacked_func",
    "flash_attn_with_kvcache",
    "install_as_flash_attn",
    "merge",
    "prepare",
]


_OF_TORCH = ("bert_padding", "flash_attn_interface", "hf", "layers", "vllm")
# The modules of what flash_attn_interface has not.
_HOMES = dict.fromkeys(("KVCache", "OutOfPages"), "_paged_cache")

__dir__ = listing(globals(), *_OF_TORCH)


def __getattr__(name: str) -> Any:
    """Imports what needs PyTorch when it is first asked for, and keeps it here."""
    if name not in _OF_TORCH and name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        if name in _OF_TORCH:
            return importlib.import_module(f"{__name__}.{name}")
        home = _HOMES.get(name, "flash_attn_interface")
        value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
        globals()[name] = value
        return value
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(f"flashattn.{name} needs PyTorch: pip install torch") from None
