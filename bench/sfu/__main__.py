"""What a server spends to forward packets: `python -m bench.sfu`; `--help` says what it can be asked for.

Real peers fill a room (ICE, DTLS, SRTP, signalling), and cost little: media is counted by its headers, in the clear,
and only one packet in 17 is decrypted to see when it left (`counting.py`). All clients are in this process and have one
core; servers are processes of their own, started for each run in a network namespace of the benchmark's, which needs
root or user namespaces. With `--peers triosfu,janus` they run in turn, so that both see the same machine; the medians
of the rounds count, and the ratio of each pair.

Scenarios, by how many are in the room:

    audio    one speaks (Opus, 50 packets a second), all others listen
    stage    ten speak, all listen
    quiet    one who speaks is silent (a packet each 400 ms, as with DTX), all others listen: what is left is what
             participants cost whether they hear anything or not
    video    one is seen (VP8, 2 Mbit/s in 240 packets a second), all others watch
    meeting  all speak and are seen in three qualities; everybody looks at one other in the best, at the rest in the
             worst, and hears all
    data     one sends reliable packets of 1 kB (50 a second) to all others; what is counted are whole messages. Not
             for Janus.

Columns: packets (or messages) that came to subscribers, by the second; those for each second of the server's CPU (all
its threads and the kernel's work for them); the reverse, in microseconds; the cores that the server and the clients
kept busy; the delay from before a packet is protected by who sends it to when the kernel has it for the subscriber; the
server's memory; numbers that subscribers never saw; packets that were dropped by choice and came again, of those asked
for. Nothing of the joining is counted. A run in which the clients kept their core busy, or published late, has a line
below it that says so: it is to be made again.

Memory: all join, then some publish, then all subscribe. What the server's resident memory has grown by after the second
step, divided by the participants, is the first figure: whoever publishes has two peer connections (LiveKit's protocol),
all others one, unless `--both` is given; in `meeting`, where all publish, what is kept of their tracks is included.
What it has grown by after the third, and while all is counted, divided by the subscriptions, is the second. Both are
beyond the base, and mean little with few participants: allocators take memory by the piece. With Janus a peer
connection for watching comes only with the subscription, and is counted there.

Subscribers give feedback as browsers do, and as often (`feedback.py`): a receiver report each five seconds for a sound
and each second for a picture, REMB twice a second for pictures, or transport-wide feedback each 100 ms, whichever the
server negotiates; an ICE check each 2.5 s and a ping each 5 s. `--loss 1` has them drop one percent and ask for it by
NACK.

Examples, for docs/performance.md, on a machine with nothing else to do:

    nice -n -10 python -m bench.sfu --peers triosfu,janus --rounds 3 --json sfu.jsonl --plots docs/performance
    nice -n -10 python -m bench.sfu --scenarios audio,video --loss 1 --rounds 3
    nice -n -10 python -m bench.sfu --scenarios audio --sizes 100,500 --no-feedback
    nice -n -10 python -m bench.sfu --scenarios audio --sizes 300 --both     # memory of participants with both
    nice -n -10 python -m bench.sfu --share 50 --rounds 3                    # delays at half of what saturates a core
    for n in 1 3 10 30 100; do python -m bench.sfu --scenarios audio --sizes 11 --rooms $n --json cost.jsonl; done
    nice -n -10 python -m bench.sfu --scenarios audio --sizes 50 --rooms 4 --options "--workers 2"
    python -m bench.sfu.plot sfu.jsonl docs/performance          # the plots once more
    python -m bench.sfu --url ws://127.0.0.1:7880 --key devkey --secret secret
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, TextIO

import trio

from bench.sfu.figures import HEADING, Figures, ratios, spreads, together
from bench.sfu.janus import janus
from bench.sfu.peer import Ended, first_of
from bench.sfu.scenarios import SCENARIOS, Habits, measure
from bench.sfu.servers import elsewhere, triosfu
from tests.clients.network import enter_own_network

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from bench.sfu.scenarios import Scenario
    from bench.sfu.servers import Measured

    Opener = Callable[[], AbstractContextManager[Measured]]

PEERS = ("triosfu", "janus")
TRIES, CLOSE = 5, 0.15  # runs to find a size with, and how near to the share is near enough


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sfu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenarios", default=",".join(SCENARIOS), help="which ones (default: %(default)s)")
    parser.add_argument("--sizes", help="how many are in the room, instead of the usual ones, such as 10,100")
    parser.add_argument(
        "--share",
        type=float,
        default=0.0,
        help="find the sizes that keep the server busy for so many percent of a core (default: the sizes are given)",
    )
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="that are counted in each run (default: %(default)s)"
    )
    parser.add_argument("--settle", type=float, default=2.0, help="seconds before that (default: %(default)s)")
    parser.add_argument("--rooms", type=int, default=1, help="that many rooms of the size each (default: 1)")
    parser.add_argument("--peers", default="triosfu", help="servers to measure in turn: triosfu,janus")
    parser.add_argument("--rounds", type=int, default=1, help="of all peers, for each size (default: 1)")
    parser.add_argument("--no-feedback", action="store_true", help="subscribers say nothing of what comes")
    parser.add_argument("--both", action="store_true", help="everybody has two peer connections, also who only watches")
    parser.add_argument("--loss", type=float, default=0.0, help="percent of the packets that subscribers drop")
    parser.add_argument("--url", help="measure this server (ws://…), which speaks LiveKit's protocol, instead of peers")
    parser.add_argument("--key", default="devkey", help="of its API (default: %(default)s)")
    parser.add_argument("--secret", default="secret", help="of the key (default: %(default)s)")
    parser.add_argument("--options", default="", help='further ones for `triosfu run`, such as "--workers 2"')
    parser.add_argument("--config", default="", help="YAML for `triosfu run`")
    parser.add_argument(
        "--janus-loops", type=int, default=0, help="threads that Janus shares among all (default: one for each handle)"
    )
    parser.add_argument("--json", type=Path, help="file to which each run is appended as a line of JSON")
    parser.add_argument("--plots", type=Path, help="folder for an SVG for each scenario; needs the extra `bench`")
    parser.add_argument("--profile", default="", help="where py-spy writes what the server was doing")
    options = parser.parse_args(arguments)
    for wanted, known in ((options.scenarios, tuple(SCENARIOS)), (options.peers, PEERS)):
        if unknown := set(wanted.split(",")) - set(known):
            parser.error(f"{', '.join(sorted(unknown))}: not one of {', '.join(known)}")
    if options.plots and find_spec("matplotlib") is None:
        parser.error("--plots: matplotlib is missing (pip install triosfu[bench])")
    if options.profile and which("py-spy") is None:
        parser.error("--profile: py-spy is missing")
    if not 0 <= options.share <= 100:
        parser.error("--share: 0 to 100 percent of a core")
    if not 0 <= options.loss <= 50:
        parser.error("--loss: 0 to 50 percent")
    return options


def openers(options: argparse.Namespace) -> dict[str, Opener]:
    """How each server is started."""
    if options.url:
        return {options.url: lambda: elsewhere(options.url, options.key, options.secret)}
    every: dict[str, Opener] = {
        "triosfu": lambda: triosfu(shlex.split(options.options), config=options.config),
        "janus": lambda: janus(loops=options.janus_loops, rooms=options.rooms),
    }
    return {name: every[name] for name in options.peers.split(",")}


def run(options: argparse.Namespace, commit: str, lines: TextIO | None, runs: list[Figures]) -> None:
    """Make all runs; each is printed, and added to `runs`, when it is done."""
    habits = Habits(
        seconds=options.seconds, settle=options.settle, rooms=options.rooms, both=options.both,
        feedback=not options.no_feedback, drop_every=round(100 / options.loss) if options.loss else 0,
        profile=options.profile,
    )  # fmt: skip
    every = openers(options)

    def once(server: str, name: str, size: int) -> Figures:
        with every[server]() as measured:
            figures = trio.run(measure, measured, name, size, habits)
        runs.append(figures)
        print(figures, flush=True)
        if SCENARIOS[name].silent and figures.cpu is not None:
            each = 1e6 * figures.cpu / figures.seconds / size / options.rooms
            print(f"  {each:.0f} µs of CPU a second for each participant")
        for doubt in figures.doubts:
            print(f"  {doubt}", flush=True)
        if lines is not None:
            about = {"commit": commit, "rooms": options.rooms, "loss": options.loss, "both": options.both}
            about |= {"feedback": habits.feedback, "options": options.options}
            lines.write(json.dumps({**about, **figures.as_json()}) + "\n")
            lines.flush()
        return figures

    for name in options.scenarios.split(","):
        servers = [server for server in every if not (server == "janus" and SCENARIOS[name].data)]
        if options.share:
            for server in servers:
                size = find_size(partial(once, server, name), SCENARIOS[name], options.share / 100)
                for _ in range(options.rounds - 1):
                    once(server, name, size)
            continue
        sizes = [int(size) for size in options.sizes.split(",")] if options.sizes else SCENARIOS[name].sizes
        for size in sizes:
            for _ in range(options.rounds):
                for server in servers:
                    once(server, name, size)


def find_size(run: Callable[[int], Figures], scenario: Scenario, share: float) -> int:
    """Run with the sizes that lead to one with which the server keeps about `share` of a core busy; that size."""
    size = scenario.sizes[1]
    for _ in range(TRIES):
        figures = run(size)
        busy = (figures.cpu or share * figures.seconds) / figures.seconds
        if abs(busy - share) <= CLOSE * share:
            break
        tried, size = size, max(2, round(size * (share / busy) ** (0.5 if scenario.everybody else 1)))
        if size == tried:
            break
    return size


def summarize(runs: list[Figures], options: argparse.Namespace) -> None:
    """Print medians and ratios, and draw."""
    kinds = list(dict.fromkeys((run.scenario, run.size, run.server) for run in runs))
    medians = [
        together([run for run in runs if (run.scenario, run.size, run.server) == kind]) for kind in kinds
    ]  # fmt: skip
    if options.rounds > 1:
        print("\nmedians\n" + HEADING)
        for one in medians:
            print(one)
    for line in (*ratios(runs, *PEERS), *spreads(runs)):
        print(line)
    if options.plots:
        from bench.sfu.plot import draw_all  # noqa: PLC0415  matplotlib only for who wants plots

        draw_all(runs, options.plots)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parsed(arguments)
    # What would end this process at once, or is ignored by what runs in the background, lets the servers go first.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    if not options.url:
        enter_own_network()
    told = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    commit = told.stdout.strip()
    print(f"commit {commit}, Python {sys.version.split()[0]}")
    print(HEADING, flush=True)
    failure: tuple[int, str] | None = None
    runs: list[Figures] = []
    lines = options.json.open("a", encoding="utf-8") if options.json else None
    try:
        run(options, commit, lines, runs)
    except* Ended as group:
        failure = (1, str(first_of(group)))
    except* KeyboardInterrupt:
        failure = (130, "interrupted")
    finally:
        if lines is not None:
            lines.close()
    if runs:
        summarize(runs, options)
    if failure is not None:
        print(failure[1], file=sys.stderr)
        return failure[0]
    return 0


if __name__ == "__main__":
    sys.exit(main())
