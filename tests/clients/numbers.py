"""Real clients that number their reliable messages, one every 20 ms, and know which ones of the others' they got."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from itertools import pairwise, permutations
from typing import TYPE_CHECKING, Any

from tests.clients.browser import join, open_client
from tests.clients.child import Child

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from tests.clients.server import RunningServer

    Talkers = Mapping[str, "InProcess | InPage"]

HEARD = 10  # numbers of everybody else's, before anything happens
COUNTING = """
window.told = [];
window.sent = 0;
window.sending = true;
window.paths = async () => {  // what each transport takes, by its protocol
  const taken = [];
  for (const transport of [room.engine.pcManager.publisher, room.engine.pcManager.subscriber]) {
    const reports = transport ? [...(await transport.getStats()).values()] : [];
    const selected = new Set(reports.map((one) => one.selectedCandidatePairId).filter(Boolean));
    for (const pair of reports.filter((one) => selected.has(one.id))) {
      taken.push(reports.find((one) => one.id === pair.localCandidateId).protocol);
    }
  }
  return taken;
};
window.count = async () => {
  const event = LivekitClient.RoomEvent;
  for (const name of ['Reconnecting', 'SignalReconnecting', 'Reconnected', 'Disconnected', 'TrackUnsubscribed',
                      'ParticipantDisconnected']) room.on(event[name], () => told.push(name));
  while (room.state !== 'disconnected') {
    if (sending) {
      const number = sent++;
      // Not awaited: what is said to a connection that is gone may wait for good, or be refused.
      room.localParticipant.publishData(new TextEncoder().encode(String(number)), {reliable: true}).catch(() => {});
    }
    await new Promise((done) => setTimeout(done, 20));
  }
};
"""
LOST = {"restarting", "track_unsubscribed", "participant_disconnected", "disconnected"}
LOST_IN_PAGE = {"TrackUnsubscribed", "ParticipantDisconnected", "Disconnected", "Reconnecting"}


class InProcess:
    """A client in a process of its own: `numbers_child` or `numbers_page_child`."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.reconnected = 0

    def simulate(self, kind: str) -> None:
        self.reconnected = len(self.child.events("reconnected"))
        self.child.tell(f"simulate {kind}")

    def is_back(self) -> bool:
        return len(self.child.events("reconnected")) > self.reconnected

    def pause(self) -> int:
        before = len(self.child.events("paused"))
        self.child.tell("pause")
        patiently(lambda: len(self.child.events("paused")) > before, "a pause")
        return int(self.child.events("paused")[-1]["sent"])

    def go(self) -> None:
        self.child.tell("go")

    def report(self) -> dict[str, Any]:
        before = len(self.child.events("report"))
        self.child.tell("report")
        patiently(lambda: len(self.child.events("report")) > before, "a report")
        return self.child.events("report")[-1]

    def numbers(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = self.report()["numbers"]
        return found

    def lost(self) -> set[str]:
        return LOST & {event["event"] for event in self.child.told}


class InPage:
    """A client in a page."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.reconnected = 0

    def _reconnected(self) -> int:
        return int(self.page.evaluate("told.filter((name) => name === 'Reconnected').length"))

    def simulate(self, kind: str) -> None:
        self.reconnected = self._reconnected()
        self.page.evaluate("(kind) => { room.simulateScenario(kind); }", kind)

    def is_back(self) -> bool:
        return self._reconnected() > self.reconnected

    def pause(self) -> int:
        return int(self.page.evaluate("sending = false, sent"))

    def go(self) -> None:
        self.page.evaluate("sending = true")

    def numbers(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for text, sender in self.page.evaluate("seen.data"):
            if sender:  # what comes before the news of who it is has none
                found.setdefault(sender, []).append(int(text))
        return found

    def lost(self) -> set[str]:
        return LOST_IN_PAGE & set(self.page.evaluate("told"))


def patiently(condition: Callable[[], bool], what: str, *, seconds: float = 20) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


@contextmanager
def talkers(server: RunningServer, browser: Browser, room: str, logs: Path, *names: str) -> Iterator[Talkers]:
    """The named clients in a room, each of which has heard each of the others."""
    room = f"{room}-{time.monotonic_ns()}"  # a second try must not meet who was killed in the first
    with ExitStack() as stack:
        found: dict[str, InProcess | InPage] = {}
        for name in names:
            program, shape = name.split("-")
            if program == "wheel":
                arguments = (server.url, server.token(name, room), shape)
                child = Child("tests.clients.numbers_child", *arguments, log=logs / "resuming_clients.log")
                stack.callback(child.end)
                found[name] = InProcess(child)
            else:
                page = open_client(browser, server)
                stack.callback(page.context.close)
                page.add_script_tag(content=COUNTING)
                join(page, server, name, room, singlePeerConnection=shape == "single")
                page.evaluate("() => { count(); }")
                found[name] = InPage(page)
        for one in found.values():
            if isinstance(one, InProcess):
                one.child.wait_for("ready")
        patiently(lambda: all_heard(found, HEARD), "everybody hears everybody")
        yield found


Numbers = dict[str, dict[str, list[int]]]  # that each receiver has of each sender


def all_heard(found: Talkers, many: int, *, beyond: Numbers | None = None) -> bool:
    """Whether everybody has so many numbers of everybody else, beyond what they had before."""
    numbers = {name: one.numbers() for name, one in found.items()}
    before = beyond or {name: {} for name in found}
    return all(
        len(numbers[receiver].get(sender, ())) >= many + len(before[receiver].get(sender, ()))
        for receiver, sender in permutations(found, 2)
    )


def sounds(found: Talkers) -> dict[tuple[str, str], float]:
    """How much of whose tone each has received; pages count packets."""
    heard: dict[tuple[str, str], float] = {}
    for name, one in found.items():
        if isinstance(one, InProcess):
            heard |= {(name, sender): frames for sender, frames in one.report()["loud"].items()}
        else:
            reports = one.page.evaluate("received()")
            heard |= {(name, key.split("/")[0]): report["packets"] for key, report in reports.items()}
    return heard


def settled(found: Talkers) -> Numbers:
    """Everybody stops; what each has got of each, when all has come that will."""
    sent = {name: one.pause() for name, one in found.items()}
    numbers: Numbers = {}
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        numbers = {name: one.numbers() for name, one in found.items()}
        last = {(receiver, sender): numbers[receiver][sender][-1] for receiver, sender in permutations(found, 2)}
        if all(last[receiver, sender] >= sent[sender] - 1 for receiver, sender in last):
            break
        time.sleep(0.1)
    return numbers


def check_complete(numbers: Numbers) -> None:
    """From the first number that it got, each has all of them, once, in order, and all have the same last."""
    for receiver, of in numbers.items():
        for sender, got in of.items():
            assert got == list(range(got[0], got[0] + len(got))), f"{sender} to {receiver}"
    for sender in numbers:
        assert len({of[sender][-1] for receiver, of in numbers.items() if receiver != sender}) == 1, sender


def check_none_twice(numbers: Numbers) -> None:
    """Nothing came twice, or out of order; what is said while somebody is not there is lost to it."""
    for receiver, of in numbers.items():
        for sender, got in of.items():
            assert all(one < other for one, other in pairwise(got)), f"{sender} to {receiver}"


def back(found: Talkers) -> None:
    patiently(lambda: all(one.is_back() for one in found.values()), "everybody is back")


def lost(found: Talkers) -> dict[str, set[str]]:
    """What each was told that must not happen while others or it resume."""
    return {name: bad for name, one in found.items() if (bad := one.lost())}
