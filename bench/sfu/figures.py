"""What runs have shown: a line for each, medians and ratios over the rounds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HEADING = (
    f"{'server':<16}{'scenario':<9}{'size':>5}{'packets/s':>11}{'per CPU s':>11}{'µs':>8}{'cpu':>7}{'clients':>9}"
    f"{'p50 ms':>8}{'p99':>8}{'p99.9':>8}{'kB/part':>9}{'kB/sub':>8}{'lost':>7}{'repaired':>13}"
)
KEPT_BUSY = 0.95  # of a core: above it the clients may be what limits
LATE = 0.1  # seconds


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run has shown."""

    server: str
    scenario: str
    size: int
    seconds: float
    packets: int  # that came to subscribers, those they have dropped by choice too; messages of data
    octets: int
    lost: int
    asked: int  # packets that were dropped and asked for
    repaired: int  # that then came
    cpu: float | None  # seconds of the server; None: it is not on this machine
    clients: float  # seconds of CPU of all clients together, who have one core
    late: float  # seconds that a publisher was behind its time, at worst
    delays: tuple[float, float, float]  # seconds: p50, p99, p99.9
    participants: int
    subscriptions: int
    per_participant: float  # bytes of memory
    per_subscription: float

    @property
    def rate(self) -> float:
        """Packets per second."""
        return self.packets / self.seconds

    @property
    def cost(self) -> float | None:
        """Microseconds of the server's CPU for each packet that came to a subscriber."""
        return None if self.cpu is None or not self.packets else self.cpu * 1e6 / self.packets

    @property
    def per_cpu_second(self) -> float | None:
        """Packets for each second of the server's CPU."""
        return self.packets / self.cpu if self.cpu else None

    @property
    def doubts(self) -> list[str]:
        """Why this run may say more of the clients, or of the machine, than of the server."""
        found = []
        if self.clients > KEPT_BUSY * self.seconds:
            found.append("the clients kept their core busy, and may be what limits")
        if self.late > LATE:
            found.append(
                f"who publishes was up to {1000 * self.late:.0f} ms late: the machine had something else to do"
            )
        return found

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {**asdict(self), "rate": self.rate, "cost": self.cost, "per_cpu_second": self.per_cpu_second}

    def __str__(self) -> str:
        p50, p99, p999 = (f"{1000 * delay:8.2f}" for delay in self.delays)
        known = self.cpu is not None
        share = f"{100 * (self.cpu or 0) / self.seconds:.0f} %" if known else "-"
        memory = [f"{size / 1024:.0f}" if known else "-" for size in (self.per_participant, self.per_subscription)]
        return (
            f"{self.server[:15]:<16}{self.scenario:<9}{self.size:>5}{self.rate:>11,.0f}"
            f"{_number(self.per_cpu_second, ',.0f'):>11}{_number(self.cost, '.2f'):>8}{share:>7}"
            f"{100 * self.clients / self.seconds:>7.0f} %{p50}{p99}{p999}{memory[0]:>9}{memory[1]:>8}{self.lost:>7}"
            f"{(f'{self.repaired}/{self.asked}' if self.asked else '-'):>13}"
        )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def together(runs: Sequence[Figures]) -> Figures:
    """One run's worth of the medians of several of the same kind."""
    first = runs[0]

    def of(name: str) -> Any:  # noqa: ANN401  as the field has it
        values = [getattr(run, name) for run in runs]
        return None if None in values else median(values)

    return Figures(
        server=first.server, scenario=first.scenario, size=first.size, seconds=of("seconds"),
        packets=round(of("packets")), octets=round(of("octets")), lost=round(of("lost")), asked=round(of("asked")),
        repaired=round(of("repaired")), cpu=of("cpu"), clients=of("clients"), late=of("late"),
        delays=(
            median(run.delays[0] for run in runs),
            median(run.delays[1] for run in runs),
            median(run.delays[2] for run in runs),
        ),
        participants=first.participants, subscriptions=round(of("subscriptions")),
        per_participant=of("per_participant"), per_subscription=of("per_subscription"),
    )  # fmt: skip


def ratios(runs: Iterable[Figures], ours: str, theirs: str) -> list[str]:
    """A line for each scenario and size: what `ours` carries for a second of CPU, by what `theirs` does, in pairs."""
    rounds: dict[tuple[str, int], dict[str, list[float]]] = {}
    for run in runs:
        if run.per_cpu_second is not None:
            by_server = rounds.setdefault((run.scenario, run.size), {})
            by_server.setdefault(run.server, []).append(run.per_cpu_second)
    lines = []
    for (scenario, size), by_server in rounds.items():
        pairs = list(zip(by_server.get(ours, []), by_server.get(theirs, []), strict=False))
        if found := [one / other for one, other in pairs if other]:
            lines.append(
                f"{scenario} {size}: {ours} forwards {median(found):.1f} times the packets of {theirs} for a second of "
                f"CPU ({min(found):.1f} to {max(found):.1f} in {len(found)} pairs)"
            )
    return lines


def spreads(runs: Iterable[Figures]) -> list[str]:
    """A line for each server and scenario: what a packet costs with the fewest subscriptions, and with more."""
    found: dict[tuple[str, str], dict[int, list[float]]] = {}
    for run in runs:
        if run.cost is not None and run.subscriptions:
            by_number = found.setdefault((run.server, run.scenario), {})
            by_number.setdefault(run.subscriptions, []).append(run.cost)
    return [
        f"{server}, {scenario}: "
        + ", ".join(f"{median(costs):.1f} µs with {number}" for number, costs in sorted(by_number.items()))
        + " subscriptions"
        for (server, scenario), by_number in found.items()
        if len(by_number) > 1
    ]
