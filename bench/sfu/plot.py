"""Draws what runs have shown: `python -m bench.sfu.plot FILE FOLDER`; wants matplotlib (`pip install triosfu[bench]`).

One SVG for each scenario with several sizes: packets for each second of the server's CPU, and the delay that 99 of 100
packets stay below, over how many are in the room. The lines go through the medians, the bars from the least to the most
of the rounds. `sfu-cost.svg` has what a packet costs, over how many subscriptions there are.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import fields
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from bench.sfu.figures import Figures
from bench.sfu.scenarios import SCENARIOS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

mpl.rcParams["svg.hashsalt"] = "triosfu"  # the same picture for the same figures
mpl.rcParams["svg.fonttype"] = "none"  # letters and not their outlines

PANELS: tuple[tuple[str, Callable[[Figures], float | None]], ...] = (
    ("packets for each second of CPU", lambda run: run.per_cpu_second),
    ("delay of 99 %, in ms", lambda run: 1000 * run.delays[1]),
)


def draw_all(runs: Sequence[Figures], folder: Path) -> None:
    """Write `sfu-SCENARIO.svg` for each scenario that `runs` have."""
    folder.mkdir(parents=True, exist_ok=True)
    for scenario in dict.fromkeys(run.scenario for run in runs):
        some = [run for run in runs if run.scenario == scenario]
        if len({run.size for run in some}) > 1:
            draw(some, folder / f"sfu-{scenario}.svg")
    if len({run.subscriptions for run in runs}) > 1:
        draw_cost(runs, folder / "sfu-cost.svg")


def draw_cost(runs: Sequence[Figures], to: Path) -> None:
    """Write one SVG for all scenarios: what a packet costs over how many subscriptions there are, in all rooms."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.add_subplot(1, 1, 1)
    for server, scenario in dict.fromkeys((run.server, run.scenario) for run in runs):
        by_number: dict[int, list[float]] = {}
        for run in runs:
            of_this = (run.server, run.scenario) == (server, scenario)
            if of_this and run.cost is not None and not SCENARIOS[scenario].data:  # a message is dearer by far
                by_number.setdefault(run.subscriptions, []).append(run.cost)
        if not by_number:
            continue
        numbers = sorted(by_number)
        costs = [median(by_number[number]) for number in numbers]
        axes.plot(numbers, costs, marker="o", markersize=3, label=f"{server}: {scenario}")
    axes.set(xlabel="subscriptions", ylabel="µs of CPU for each packet", xscale="log")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(to, metadata={"Date": None})


def draw(runs: Sequence[Figures], to: Path) -> None:
    """Write one SVG."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    figure.suptitle(f"{runs[0].scenario}: {SCENARIOS[runs[0].scenario].title}")
    for place, (label, value) in enumerate(PANELS):
        axes = figure.add_subplot(1, len(PANELS), place + 1)
        for server in dict.fromkeys(run.server for run in runs):
            by_size: dict[int, list[float]] = {}
            for run in runs:
                if run.server == server and (found := value(run)) is not None:
                    by_size.setdefault(run.size, []).append(found)
            if not by_size:
                continue
            sizes = sorted(by_size)
            middle = [median(by_size[size]) for size in sizes]
            below = [one - min(by_size[size]) for one, size in zip(middle, sizes, strict=True)]
            above = [max(by_size[size]) - one for one, size in zip(middle, sizes, strict=True)]
            axes.errorbar(sizes, middle, yerr=[below, above], marker="o", markersize=3, capsize=2, label=server)
        axes.set(xlabel="in the room", ylabel=label)
        axes.set_ylim(bottom=0)
        axes.legend()
    figure.savefig(to, metadata={"Date": None})


def read(file: Path) -> list[Figures]:
    """The runs that `--json` has written."""
    names = {field.name for field in fields(Figures)}
    runs = []
    for line in file.read_text(encoding="utf-8").splitlines():
        told = {name: value for name, value in json.loads(line).items() if name in names}
        runs.append(Figures(**{**told, "delays": tuple(told["delays"])}))
    return runs


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sfu.plot", description="Draws what runs have shown.")
    parser.add_argument("file", type=Path, help="what `python -m bench.sfu --json` has written")
    parser.add_argument("folder", type=Path, help="for an SVG for each scenario")
    options = parser.parse_args()
    draw_all(read(options.file), options.folder)


if __name__ == "__main__":
    main()
