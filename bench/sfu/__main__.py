"""What a server spends to forward packets: `python -m bench.sfu [--scenarios audio,video] [--url ws://…]`."""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import asdict

import trio

from bench.sfu.scenarios import HEADING, SCENARIOS, measure
from bench.sfu.servers import elsewhere, triosfu
from tests.clients.network import enter_own_network


def main() -> None:
    parser = argparse.ArgumentParser(description="Packets forwarded, and what that costs.")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--sizes", help="instead of the usual ones, such as 10,100")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run")
    parser.add_argument("--url", help="measure this server too, which speaks LiveKit's protocol")
    parser.add_argument("--key", default="devkey")
    parser.add_argument("--secret", default="secret")
    parser.add_argument("--profile", default="", help="where py-spy writes what the server was doing")
    parser.add_argument("--json", action="store_true", help="a line of JSON for each run, too")
    options = parser.parse_args()
    if not options.url:
        enter_own_network()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    print(f"commit {commit.stdout.strip()}")
    print(HEADING, flush=True)
    for name in options.scenarios.split(","):
        sizes = [int(size) for size in options.sizes.split(",")] if options.sizes else SCENARIOS[name].sizes
        for size in sizes:
            opened = elsewhere(options.url, options.key, options.secret) if options.url else triosfu()
            with opened as server:
                figures = trio.run(measure, server, name, size, options.seconds, options.profile)
            print(figures, flush=True)
            if options.json:
                print(json.dumps(asdict(figures)), flush=True)


if __name__ == "__main__":
    main()
