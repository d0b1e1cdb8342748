"""DTensors: how the operators are split over a mesh, by sequences of the batch and by heads."""

from __future__ import annotations

from typing import Any


def check(dropout_p: float, **tensors: Any) -> None:
    """Nothing yet."""
