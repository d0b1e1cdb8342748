"""The paper's bar charts: speed against sequence length, a group of bars for each length."""

from __future__ import annotations

import statistics
from typing import Any

COLOURS = ("#1f5fa8", "#e08a1e", "#8a8a8a", "#4c9a52", "#b04a6f")


def _panels(cells: list[dict[str, Any]]) -> tuple[list[Any], list[Any]]:
    """Rows and columns: (pass, dtype) and (head_dim, causal)."""
    rows = list(dict.fromkeys((c["work"], c["dtype"]) for c in cells))
    columns = list(dict.fromkeys((c["head_dim"], c["causal"]) for c in cells))
    return rows, sorted(columns)


def _rate(cell: dict[str, Any], seconds: list[float]) -> float:
    from cells import Cell

    fields = {name: cell[name] for name in Cell.__dataclass_fields__}
    return Cell(**fields).rate(statistics.median(seconds))[0]


def draw(report: dict[str, Any], file: str) -> None:
    """Writes a picture of a report of compare.py; decoding has no sequence of lengths and is left
    to the table."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cells = [c for c in report["cells"] if c["work"] != "decode" and not c["name"]]
    if not cells:
        raise ValueError("nothing to draw: the report has no forward or backward cell of the grid")
    rows, columns = _panels(cells)
    size = (3.6 * len(columns), 2.5 * len(rows) + 0.6)
    figure, axes = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False)
    names = list(dict.fromkeys(n for c in cells for n in c["seconds"] if not n.startswith("GEMM")))
    for row, (work, dtype) in enumerate(rows):
        for column, (head_dim, causal) in enumerate(columns):
            key = (work, dtype, head_dim, causal)
            inside = [
                c for c in cells if (c["work"], c["dtype"], c["head_dim"], c["causal"]) == key
            ]
            inside.sort(key=lambda c: c["seqlen"])
            _bars(axes[row][column], inside, names)
            mask = "causal" if causal else "full"
            axes[row][column].set_title(f"{work}, {dtype}, d = {head_dim}, {mask}", fontsize=8)
        axes[row][0].set_ylabel("GFLOP/s", fontsize=8)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(names), frameon=False, fontsize=8)
    figure.suptitle(f"{report['device']}, {report['commit'][:12]}", fontsize=8)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _bars(axis: Any, cells: list[dict[str, Any]], names: list[str]) -> None:
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        places = [
            (x, _rate(c, c["seconds"][name])) for x, c in enumerate(cells) if name in c["seconds"]
        ]
        left = [x + (number - (len(names) - 1) / 2) * width for x, _ in places]
        colour = COLOURS[number % len(COLOURS)]
        axis.bar(left, [rate for _, rate in places], width, label=name, color=colour)
    axis.set_xticks(range(len(cells)), [_length(c["seqlen"]) for c in cells], fontsize=7)
    axis.tick_params(axis="y", labelsize=7)
    axis.spines[["top", "right"]].set_visible(False)


def _length(seqlen: int) -> str:
    return f"{seqlen // 1024}k" if seqlen % 1024 == 0 else str(seqlen)
