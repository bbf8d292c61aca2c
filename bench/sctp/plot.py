"""Draws the runs over time; wants matplotlib (`pip install triosfu[bench]`)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from pathlib import Path

    from bench.sctp.pair import Figures

mpl.rcParams["svg.hashsalt"] = "triosfu"  # the same picture for the same figures
WINDOW = 5  # points


def draw(figures: Figures, title: str, to: Path) -> None:
    """Write an SVG: Mbit/s in windows of half a second, and the mean of the whole run."""
    points = figures.series[::WINDOW]
    at = [(a[0] + b[0]) / 2 for a, b in pairwise(points)]
    rate = [(b[1] - a[1]) * 8 / (b[0] - a[0]) / 1e6 for a, b in pairwise(points)]
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(at, rate)
    axes.axhline(figures.rate, linestyle="--", linewidth=1, color="grey")
    axes.set(title=title, xlabel="seconds", ylabel="Mbit/s", ylim=(0, max(rate) * 1.1))
    figure.savefig(to, metadata={"Date": None})
