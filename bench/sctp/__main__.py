"""Runs the benchmark of data channels and prints a table: `python -m bench.sctp [--rounds 5] [--plots FOLDER]`.

A round lets two triosfu peers and two aiortc peers send in turn, so that both see the same machine; the medians count.
All peers live in a network namespace of this run's own, which needs root or user namespaces.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path as FilePath
from statistics import median

from bench.sctp.memory import bench_memory
from bench.sctp.pair import Figures, Path, measure
from tests.clients.network import enter_own_network

SIZES = (100, 1_000, 16_000, 200_000)
FAR = Path(delay=0.025)  # a round trip of 50 ms
LOSSY = Path(delay=0.05, loss=0.01)  # 1 % each way, 100 ms


def line(name: str, runs: list[Figures]) -> None:
    """One row: the medians of some runs."""
    rate, sender, receiver, per_core = (
        median(getattr(run, key) for run in runs) for key in ("rate", "sender", "receiver", "rate_per_core")
    )
    print(f"{name:<44}{rate:>9.2f}{sender:>9.2f}{receiver:>9.2f}{per_core:>10.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput of one reliable data channel.")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=16_000, help="bytes of a message")
    parser.add_argument("--plots", type=FilePath, help="where to write the plots")
    options = parser.parse_args()
    enter_own_network()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    print(f"commit {commit.stdout.strip()}; Mbit/s of user data; cores kept busy by each end; Mbit/s a core of both")
    print(f"{'':<44}{'Mbit/s':>9}{'sender':>9}{'receiver':>9}{'per core':>10}")
    for size in SIZES:
        rate = max(bench_memory(size, 20_000_000 if size > 100 else 2_500_000) for _ in range(3))
        print(f"{f'two cores in memory, {size} bytes':<44}{'':>27}{rate:>10.1f}", flush=True)

    def run(kind: str, path: Path, seconds: float = options.seconds) -> Figures:
        return measure(kind, seconds=seconds, size=options.size, path=path)

    ours, common, theirs = [], [], []
    for _ in range(options.rounds):
        ours.append(run("ours", Path()))
        common.append(run("ours", Path(common=True)))
        theirs.append(run("theirs", Path()))
    line("triosfu, loopback", ours)
    line("triosfu, loopback, 1,412 bytes a packet", common)
    line("aiortc, loopback", theirs)
    for name, one in (("triosfu / aiortc", ours), ("triosfu with 1,412 bytes / aiortc", common)):
        ratios = [one[at].rate / theirs[at].rate for at in range(options.rounds)]
        print(f"{name:<44}{median(ratios):>9.1f} ({min(ratios):.1f} to {max(ratios):.1f})", flush=True)
    far = [run("ours", FAR, 10.0) for _ in range(3)]
    line("triosfu, 50 ms round trip", far)
    lossy = [run("ours", LOSSY, 30.0) for _ in range(3)]
    line("triosfu, 100 ms round trip, 1 % loss", lossy)
    if options.plots:
        from bench.sctp.plot import draw  # noqa: PLC0415  matplotlib only for who wants plots

        options.plots.mkdir(parents=True, exist_ok=True)
        draw(far[0], "one channel, 50 ms round trip", options.plots / "sctp-50ms.svg")
        draw(lossy[0], "one channel, 100 ms round trip, 1 % loss", options.plots / "sctp-1-percent.svg")


if __name__ == "__main__":
    main()
