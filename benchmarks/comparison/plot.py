"""The result as a picture: time per token of everyone, with the memory's floor."""

from __future__ import annotations

import os
from pathlib import Path

from rivals.base import PRESET

from comparison import texts
from comparison.document import Document, Entry

OURS, THEIRS, FLOOR = "#1f6f8b", "#b8b8b8", "#b03030"
WIDTH, HEIGHT_OF_BAR, HEIGHT_OF_REST = 8.0, 0.38, 1.3  # inches
SALT = "kexport"  # ids in an SVG are random without one
BAR, ERROR_CAP, LABEL_GAP, TITLE_MARGIN = 0.7, 3, 4, 0.01


def draw(document: Document, path: Path) -> None:
    """Write the plot; the name's ending says the format (svg, png). Needs matplotlib: `pip install "kexport[bench]"`."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    import matplotlib
    from matplotlib.figure import Figure

    entries = [(entry, entry.figures) for entry in reversed(document.entries) if entry.figures]
    with matplotlib.rc_context({"svg.hashsalt": SALT, "font.size": 9}):
        figure = Figure(figsize=(WIDTH, HEIGHT_OF_REST + HEIGHT_OF_BAR * len(entries)), layout="constrained")
        axes = figure.add_subplot()
        for place, (entry, figures) in enumerate(entries):
            time, floor = figures.ms_per_token, figures.floor_ms_per_token
            error = [[time.median - time.min], [time.max - time.median]]
            color = OURS if entry.is_ours else THEIRS
            axes.barh(place, time.median, BAR, color=color, xerr=error, ecolor="#404040", capsize=ERROR_CAP)
            end = max(time.max, floor.median if floor else 0)
            axes.annotate(texts.number(time.median), (end, place), (LABEL_GAP, 0), textcoords="offset points", va="center")
            if floor:
                axes.plot([floor.median] * 2, [place - BAR / 2, place + BAR / 2], color=FLOOR, linewidth=2)
        axes.set_yticks(range(len(entries)), [_name(entry) for entry, _ in entries])
        axes.set_xlabel("ms per token: median, min-max; red: what the memory bandwidth allows")
        void = "VOID: " if document.steadiness.is_void else ""
        figure.suptitle(void + texts.work_text(document), x=TITLE_MARGIN, horizontalalignment="left", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _name(entry: Entry) -> str:
    return entry.label if entry.target == PRESET else f"{entry.target}: {entry.label}"
