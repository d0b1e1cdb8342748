"""The paper's bar charts of a result: speed over the sequence length, a panel for each group."""

import math
from collections.abc import Iterable
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from report import figures_of, group_of, label_of, of_faster_layouts, peer_of, unit_of

COLUMNS = 4
BARS_WIDTH = 0.85  # of the room of one label
COLORS = {  # the same contender has the same color in every plot
    "flashattn": "tab:blue",
    "no-softcap": "tab:cyan",
    "deterministic": "tab:olive",
    "sdpa-flash": "tab:orange",
    "sdpa-math": "tab:gray",
    "sdpa": "tab:orange",
    "fa2": "tab:orange",
    "cudnn": "tab:green",
    "fa3": "tab:red",
    "fa3-ordered": "tab:pink",
    "fa4": "tab:purple",
}


def draw(result: dict, target: Path) -> None:
    groups: dict[str, list[dict]] = {}
    for cell in result["cells"]:
        groups.setdefault(group_of(cell), []).append(cell)
    columns = min(COLUMNS, len(groups))
    rows = math.ceil(len(groups) / columns)
    size = (5.2 * columns, 3.2 * rows + 0.6)
    picture, panels = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for axes, (group, cells) in zip(panels.flat, groups.items()):
        _draw_panel(axes, group, cells, result)
    for axes in panels.flat[len(groups) :]:
        axes.set_visible(False)
    picture.suptitle(_title(result), fontsize=11)
    picture.legend(*_legend(panels.flat), loc="outside lower center", ncols=8)
    picture.set_layout_engine("constrained")
    picture.savefig(target, dpi=100)


def _draw_panel(axes: Axes, group: str, cells: list[dict], result: dict) -> None:
    figures = [_shown(cell, result["device"]) for cell in cells]
    contenders = dict.fromkeys(map(peer_of, result["contenders"]))
    names = [name for name in contenders if any(name in f for f in figures)]
    width = BARS_WIDTH / max(1, len(names))
    for index, name in enumerate(names):
        shift = (index - (len(names) - 1) / 2) * width
        measured = [(at + shift, f[name]) for at, f in enumerate(figures) if name in f]
        bars = axes.bar(*zip(*measured), width, label=name, color=COLORS[name])
        axes.bar_label(bars, fmt="%.3g", fontsize=6)
    axes.set_xticks(range(len(cells)), [label_of(cell) for cell in cells], fontsize=8)
    axes.set_title(group, fontsize=10)
    axes.set_ylabel(unit_of(cells[0], result["device"]))
    axes.spines[["top", "right"]].set_visible(False)


def _shown(cell: dict, device: str) -> dict[str, float]:
    """Each contender's figure, a peer's in its faster layout."""
    figures = figures_of(cell, device)
    slower = {name for name in cell["ratios"] if of_faster_layouts(cell)[peer_of(name)] != name}
    return {peer_of(name): figure for name, figure in figures.items() if name not in slower}


def _legend(panels: Iterable[Axes]) -> tuple[list, list[str]]:
    """Each contender once."""
    found = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def _title(result: dict) -> str:
    machine, versions = result["machine"], result["versions"]
    threads = f", {machine['threads']} threads" if "threads" in machine else ""
    return (
        f"{machine['name']}{threads}; flashattn {versions['flashattn']}, torch {versions['torch']}"
    )
