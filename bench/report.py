"""The result as text: a table that grows as cells are measured, and what is to be said after it.
Knows no PyTorch, as the plot: both read the JSON's cells."""

from collections import Counter
from statistics import geometric_mean, median

OURS = "flashattn"
UNCAPPED = "no-softcap"  # ours without the cell's softcap
DETERMINISTIC = "deterministic"  # ours in an order of its own
OURS_TOO = (UNCAPPED, DETERMINISTIC)  # no peers
HEADS_FIRST = "-hf"  # ends the name of a peer on tensors that lie heads first
HOST_LABELS = {
    "host_no_grad": "no_grad",
    "host_forward": "forward",
    "host_forward_backward": "both ways",
}


def group_of(cell: dict) -> str:
    """The cells of one table, or of one panel of the plot."""
    if cell["work"] in HOST_LABELS:
        return f"host, {cell['dtype']}"
    if cell["work"] == "decode":
        return f"decode, {cell['dtype']}"
    kind = set_of(cell) or f"head_dim {cell['head_dim']}"
    return f"{cell['work']}, {cell['dtype']}, {kind}, {'causal' if cell['causal'] else 'full'}"


def set_of(cell: dict) -> str:
    """What the cell was chosen for; nothing for the grid. (Earlier results lack some keys.)"""
    if cell["model"]:
        return "models"
    if lengths := cell.get("lengths"):
        return f"{len(lengths)} packed sequences"
    if window := cell.get("window"):
        return f"window {length_text(window)}"
    return f"softcap {softcap:g}" if (softcap := cell.get("softcap")) else ""


def label_of(cell: dict) -> str:
    """The cell within its group."""
    if cell["work"] in HOST_LABELS:
        return HOST_LABELS[cell["work"]]
    length = length_text(cell["seqlen_k"])
    if cell["work"] == "decode":
        return f"{cell['heads_q']}/{cell['heads_k']}/{cell['head_dim']} {length}"
    if cell.get("lengths"):
        return f"{cell['heads_q']}/{cell['head_dim']}, {cell['seqlen_k']} tokens"
    if cell.get("window") or cell.get("softcap"):
        return f"head_dim {cell['head_dim']} {length}"
    return f"{cell['model']} {length}".strip()


def length_text(length: int) -> str:
    return f"{length // 1024}k" if length % 1024 == 0 else str(length)


def unit_of(cell: dict, device: str) -> str:
    if cell["work"] in HOST_LABELS:
        return "us per call"
    if cell["work"] == "decode":
        return "GB/s of K and V"
    return "TFLOP/s" if device == "cuda" else "GFLOP/s"


def figures_of(cell: dict, device: str) -> dict[str, float]:
    """Of each contender, in the cell's unit: of its median time."""
    rounds = cell["rounds"]
    names = [name for name in (rounds[0] if rounds else {}) if name != "gemm"]
    seconds = {name: median(r[name] for r in rounds) for name in names}
    if cell["work"] in HOST_LABELS:
        return {name: 1e6 * s for name, s in seconds.items()}
    if cell["work"] == "decode":
        return {name: cell["key_bytes"] / s / 1e9 for name, s in seconds.items()}
    scale = 1e12 if device == "cuda" else 1e9
    return {name: cell["flops"] / s / scale for name, s in seconds.items()}


def peer_of(name: str) -> str:
    """Without its layout."""
    return name.removesuffix(HEADS_FIRST)


def of_faster_layouts(cell: dict) -> dict[str, str]:
    """For each peer, the contender that is it in its faster layout."""
    best: dict[str, str] = {}
    for name, ratio in cell["ratios"].items():
        peer = peer_of(name)
        if peer not in best or ratio < cell["ratios"][best[peer]]:
            best[peer] = name
    return best


class Table:
    """Rows one by one; a header where a new group begins."""

    def __init__(self, result: dict) -> None:
        self._device = result["device"]
        self._contenders = result["contenders"]
        self._gemm_flops = result["gemm_flops"]
        self._group = ""
        self._shown: list[str] = []

    def add(self, cell: dict) -> None:
        if group_of(cell) != self._group:
            self._group = group_of(cell)
            print(f"\n{self._group}: {unit_of(cell, self._device)} (its time / {OURS}'s)")
            self._shown = [name for name in self._contenders if _takes_part(cell, name)]
            columns = "".join(f"{name:>12}{'':>9}" for name in self._shown)
            gemm = f"{'gemm':>8}" if self._gemm_flops else ""
            print(f"{'':>20}{'rounds':>8}{columns}{gemm}".rstrip())
        rounds = f"{len(cell['rounds'])}{'*' if cell['measurements'] > 1 else ' '}"
        figures = figures_of(cell, self._device)
        columns = "".join(self._column(cell, figures, name) for name in self._shown)
        row = f"{label_of(cell):>20}{rounds:>8}{columns}{self._gemm(cell):>8}"
        print(row.rstrip(), flush=True)

    def _column(self, cell: dict, figures: dict[str, float], name: str) -> str:
        if name in cell["wrong"]:
            return f"{'WRONG':>12}{'':>9}"
        if name not in figures:
            return f"{'-':>12}{'':>9}"
        ratio = f"({cell['ratios'][name]:.2f}x)" if name in cell["ratios"] else ""
        return f"{figures[name]:12.1f} {ratio:<8}"

    def _gemm(self, cell: dict) -> str:
        """TFLOP/s of the GPU's matrix product in the same rounds."""
        seconds = [r["gemm"] for r in cell["rounds"] if "gemm" in r]
        return f"{self._gemm_flops / median(seconds) / 1e12:.1f}" if seconds else ""


def _takes_part(cell: dict, name: str) -> bool:
    """Whether the cell says something of this contender."""
    return name in cell["errors"] or name in cell["left_out"]


def print_summary(result: dict) -> None:
    cells = result["cells"]
    print()
    if any(name.endswith(HEADS_FIRST) for name in result["contenders"]):
        print(f"{HEADS_FIRST}: on tensors that lie heads first; below, the faster layout counts")
    if any(cell["measurements"] > 1 for cell in cells):
        print(f"*: measured once more; a ratio was under {result['settings']['bound']:g}")
    for kind in dict.fromkeys(map(_kind_of, cells)):
        alike = [cell for cell in cells if _kind_of(cell) == kind]
        for peer in dict.fromkeys(map(peer_of, result["contenders"])):
            _print_ratios(peer, kind, alike)
    left_out = Counter((name, why) for cell in cells for name, why in cell["left_out"].items())
    for (name, reason), count in left_out.items():
        print(f"{name}: left out of {count} of {len(cells)} cells: {reason}")
    for cell in cells:
        for name in cell["wrong"]:
            found = ", ".join(f"{of} {_error_text(e)}" for of, e in cell["errors"][name].items())
            print(f"{name}: WRONG in {group_of(cell)}, {label_of(cell)}: relative error of {found}")


def _kind_of(cell: dict) -> tuple[str, ...]:
    """Cells whose ratios have one mean."""
    chosen_for = set_of(cell)
    return (cell["work"], cell["dtype"], *([chosen_for] if chosen_for else []))


def _print_ratios(peer: str, kind: tuple[str, ...], cells: list[dict]) -> None:
    """Of a peer in each cell's faster layout."""
    chosen = [(of_faster_layouts(cell).get(peer), cell) for cell in cells]
    found = [(cell["ratios"][name], name, cell) for name, cell in chosen if name]
    if not found:
        return
    least, _, cell = min(found, key=lambda of: of[0])
    mean = geometric_mean(ratio for ratio, _, _ in found)
    heads_first = sum(name != peer for _, name, _ in found)
    layouts = f", {heads_first} of them with its heads first" if heads_first else ""
    print(
        f"{', '.join(kind)}, {peer}: {len(found)} cells{layouts}, geometric mean {mean:.2f}x,"
        f" least {least:.2f}x ({group_of(cell)}, {label_of(cell)})"
    )


def _error_text(error: float | None) -> str:
    return "not finite" if error is None else f"{error:.1e}"
