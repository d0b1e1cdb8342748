"""What dir() tells of a public module: what it offers, not what it imports."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def listing(module: dict[str, Any], *more: str) -> Callable[[], list[str]]:
    """The __dir__ of a module, given its globals(), with what else can be had of it."""

    def names() -> list[str]:
        special = (name for name in module if name.startswith("__"))
        return sorted({*special, *module["__all__"], *more})

    return names
