"""What dir() tells of a public module: what it offers, not what it imports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def listing(module: dict[str, Any], *more: str) -> Callable[[], list[str]]:
    """The __dir__ of a module, given its globals(), with what else can be had of it."""

    def names() -> list[str]:
        # Both ends: torch.compile puts __compiled_fn_... among a module's names.
        special = (n for n in module if n.startswith("__") and n.endswith("__"))
        return sorted({*special, *module["__all__"], *more})

    return names
