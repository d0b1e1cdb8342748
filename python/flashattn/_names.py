"""dir() of a public module lists what the module offers, not what it imports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def listing(module: dict[str, Any], *more: str) -> Callable[[], list[str]]:
    """The __dir__ of a module, made of its globals(); `more` are names beside __all__."""

    def names() -> list[str]:
        # Underscores at both ends: torch.compile adds names such as __compiled_fn_1.
        special = (n for n in module if n.startswith("__") and n.endswith("__"))
        return sorted({*special, *module["__all__"], *more})

    return names
