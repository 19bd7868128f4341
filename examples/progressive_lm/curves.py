"""Tables and pictures of what many runs gave."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from examples.progressive_lm.arms import ARMS

COLOURS = {
    "scratch": "#444444", "matched": "#999999", "grown": "#0072b2", "zeroed": "#009e73", "naive": "#56b4e9",
    "stacked": "#d55e00", "split": "#cc79a7", "zero": "#f0b400",
}  # fmt: skip
"""Okabe and Ito's, which the colour-blind can tell apart."""


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return all results of a folder, by arm, in the order of the arms."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found[record["arm"]].append(record)
    return {arm: found[arm] for arm in ARMS if arm in found}


def table(results: dict[str, list[dict[str, Any]]]) -> str:
    """Return a Markdown table: what each arm spent, and its last loss, with the standard deviation over seeds."""
    lines = ["| arm | FLOPs | seconds | validation loss, nats per byte | jump at growth |", "|---|---|---|---|---|"]
    for arm, records in results.items():
        last = [record["points"][-1] for record in records]
        losses = [point[4] for point in last]
        spread = f" ± {stdev(losses):.4f}" if len(losses) > 1 else ""
        jumps = [g["after"] - g["before"] for record in records for g in record["growths"]]
        jump = f"{max(jumps, key=abs):+.1e}" if jumps else ""
        lines.append(
            f"| {ARMS[arm].says} | {mean(p[2] for p in last):.2e} | {mean(p[3] for p in last):.0f} | "
            f"{mean(losses):.4f}{spread} ({len(losses)}) | {jump} |"
        )
    return "\n".join(lines)


def draw(results: dict[str, list[dict[str, Any]]], path: Path) -> bool:
    """Draw validation loss against FLOPs and against time, means over seeds, growths marked; False: no matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print("pip install matplotlib draws the curves")
        return False
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "growformer"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.8), sharey=True, layout="constrained")
    lowest = min(p[4] for records in results.values() for r in records for p in r["points"])
    for arm, records in results.items():
        curve = [[mean(values) for values in zip(*points, strict=True)] for points in _together(records)]
        for axis, column in zip(axes, (2, 3), strict=True):
            axis.plot([p[column] for p in curve], [p[4] for p in curve], color=COLOURS[arm], label=ARMS[arm].says)
            for growth in records[0]["growths"]:
                at = max((p for p in curve if p[0] <= growth["step"]), key=lambda p: p[0], default=curve[0])
                axis.plot(at[column], at[4], "o", color=COLOURS[arm], markersize=5)
    for axis, label in zip(axes, ("FLOPs, all stages", "seconds of training (processor time)"), strict=True):
        axis.set_xlabel(label)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("validation loss, nats per byte")
    axes[0].set_ylim(lowest - 0.03, lowest + 0.6)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return True


def _together(records: list[dict[str, Any]]) -> list[list[Any]]:
    """Return, for every point of the curve, that of each seed."""
    return [list(points) for points in zip(*(record["points"] for record in records), strict=True)]
