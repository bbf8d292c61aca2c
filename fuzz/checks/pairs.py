"""Two ends of an association, or of its data channels, and a network between them that a script commands.

The script's operations are those of both users, of time, of the network (lose, repeat, reorder), and of a forger who
knows the verification tag. Whatever it says: nothing raises but `UsageError` to the user who caused it, each packet
causes a bounded number of others, time moves on, and after an honest end nobody is left waiting.
"""

from __future__ import annotations

import math
from random import Random
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fuzz.script import Script
from triosfu.datachannel.core import ChannelClosed, ChannelMessage, ChannelOpened, DataChannels
from triosfu.errors import UsageError
from triosfu.sctp.core import Association, Ended, Established, Message, Restarted, Settings, State
from triosfu.sctp.wire import PacketHeader

if TYPE_CHECKING:
    from collections.abc import Iterable

Core = TypeVar("Core", Association, DataChannels)

REPLIES = 1  # packets without DATA and SACK that one packet may cause
BURST = 2 * Settings().max_burst  # packets with DATA that one packet may cause
LARGEST = max(Settings().larger_mtus)
HEARTBEAT_ACK = 5  # as large as the HEARTBEAT
SEARCH_AFTER = 3  # TSNs, not 64: scripts are short
WAITING = 64  # packets on the way to one end
CONTROL_ONLY = frozenset(range(256)) - {0, 3, 64, 192, 194}  # chunk types but DATA, SACK, I-DATA and both FORWARD-TSN


class Net(Generic[Core]):
    """Two cores, what is on the way to each, and virtual time."""

    def __init__(self, script: Script, left: Core, right: Core) -> None:
        self.script = script
        self.cores: tuple[Core, Core] = (left, right)
        self.coming: tuple[list[bytes], list[bytes]] = ([], [])
        self.events: tuple[list[object], list[object]] = ([], [])
        self.tags = [0, 0]  # the verification tag that each end wants, as it last said in INIT or INIT ACK
        self.now = 0.0
        self.forged = False
        self.largest = [Settings().mtu] * 2  # packet that each end has known to arrive

    def look(self, which: int) -> list[bytes]:
        """Drain one core; nothing follows its end."""
        core, told = self.cores[which], self.events[which]
        ended = any(isinstance(event, Ended) for event in told)
        events = core.events()
        assert not (ended and events), "something follows the end"
        told += events
        sent: list[bytes] = core.datagrams_to_send()
        probes: list[bytes] = core.probes_to_send()
        assert len(probes) <= 1
        association = core if isinstance(core, Association) else core._association  # noqa: SLF001
        self.largest[which] = max(self.largest[which], association.path_mtu)
        for packet in sent:
            if packet[12] in (1, 2):
                self.tags[which] = int.from_bytes(packet[16:20], "big")
        assert all(len(packet) <= self.largest[which] or packet[12] == HEARTBEAT_ACK for packet in sent)
        sent += probes
        assert not (ended and sent), "something is sent after the end"
        if ended:
            assert core.next_timeout() == math.inf
        room = WAITING - len(self.coming[1 - which])
        self.coming[1 - which].extend(sent[: max(0, room)])
        return sent

    def arrives(self, which: int, packet: bytes) -> None:
        """One packet comes in."""
        self.look(which)
        self.cores[which].receive_datagram(packet, self.now)
        sent = self.look(which)
        assert sum(map(_only_control, sent)) <= REPLIES + 1, "and a probe"
        assert len(sent) <= REPLIES + BURST + 2
        assert sum(map(len, filter(_only_control, sent))) <= 2 * max(len(packet), LARGEST)
        assert self.cores[which].datagrams_to_send() == []

    def network(self, step: int, which: int) -> None:
        """Something happens to what is on its way to one end."""
        coming = self.coming[which]
        if step == 7:
            self.forge(which)
        elif coming:
            packet = coming.pop(0 if step < 5 else -1)  # the newest overtakes
            if step == 3:
                return  # lost
            self.arrives(which, packet)
            if step == 4:
                self.arrives(which, packet)

    def forge(self, which: int) -> None:
        """Chunks that nobody sent, under the right tag, or under the peer's, none or any."""
        self.forged = True
        core = self.cores[which]
        association = core if isinstance(core, Association) else core._association  # noqa: SLF001
        handshake = association._connection.handshake  # noqa: SLF001
        kind = self.script.number()
        tag = (handshake.tag, handshake.tag, handshake.peer_tag, 0, self.script.number(4))[kind % 5]
        self.arrives(which, PacketHeader(5000, 5000, tag).packet([self.script.chunk(2)[:1500]]))

    def time_passes(self, tenths: int) -> None:
        """So much of it, or all until something is due."""
        due = min(core.next_timeout() for core in self.cores)
        self.now = max(self.now, min(due, self.now + 60.0)) if tenths == 0 else self.now + tenths / 10
        for which, core in enumerate(self.cores):
            core.handle_timeout(self.now)
            assert core.next_timeout() > self.now
            self.look(which)

    def honest(self, seconds: float) -> None:
        """The network delivers everything from here on, for so long or until nothing is left to do."""
        until = self.now + seconds
        for _ in range(20_000):
            if not any(self.coming):
                due = min(core.next_timeout() for core in self.cores)
                if due > until:
                    return
                self.now = max(self.now, due)
                self.time_passes(0)
            for which in (0, 1):
                for _ in range(len(self.coming[which])):
                    self.arrives(which, self.coming[which].pop(0))
        raise AssertionError("the two never come to rest")


def _only_control(packet: bytes) -> bool:
    at = 12
    while at + 4 <= len(packet):
        if packet[at] not in CONTROL_ONLY:
            return False
        at += (int.from_bytes(packet[at + 2 : at + 4], "big") + 3) & ~3
    return True


def _budget(kind: int, much: int) -> dict[str, Any]:
    """A message's, or a channel's, partial reliability: so many retransmissions or tenths of a second, or none."""
    if kind == 1:
        return {"max_retransmits": much}
    return {"lifetime": much / 10} if kind == 2 else {}


def _association(which: int, what: int, *, initial_tsn: int | None = None) -> Association:
    """One of two ends: with I-DATA unless its own bit in `what` says no, without checksums if the third bit says so."""
    association = Association(
        now=0.0,
        rng=Random(which + 1),
        initial_tsn=initial_tsn,
        over_dtls=bool(what & 4),
        settings=Settings(interleaving=not what >> which & 1),
    )
    association._connection.path.search_from = association._connection.outbound.next_tsn + SEARCH_AFTER  # noqa: SLF001
    return association


# --- the association --------------------------------------------------------------------------------------------------


def check_sctp_pair(data: bytes) -> None:
    """Two associations: what both say arrives, once and in order, unless somebody forged, aborted or shut down."""
    script = Script(data)
    what = script.number()
    start = (2**32 - 3, 100, 0, 2**31)[what & 3]
    left, right = (_association(which, what >> 3, initial_tsn=start) for which in (0, 1))
    net = Net(script, left, right)
    said: tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]] = ([], [])
    over = False
    if what & 4:
        left.connect(0.0)
        net.honest(0.1)
    while script:
        step = script.number()
        which, core = step >> 3 & 1, net.cores[step >> 3 & 1]
        match step & 7:
            case 0:
                net.time_passes(script.number())
            case 1:
                core.connect(net.now)
            case 2 | 3:
                over |= _use(script, net, which, said[which])
            case 4:
                net.honest(0.5)
            case _:
                net.network(step >> 4 & 7, which)
        net.look(which)
    _finish_associations(net, said, over=over)


def _use(script: Script, net: Net[Association], which: int, said: list[tuple[int, bytes]]) -> bool:
    """The user of one end does something; whether that ends the association."""
    core = net.cores[which]
    what, stream = script.number(), script.number() & 7
    match what & 15:
        case 0:
            core.abort("enough", net.now)
            return True
        case 1:
            core.shutdown(net.now)
            return True
        case 2:
            core.reset_stream(stream, net.now)
        case 3:
            core.drop_unsent(stream | 8)  # streams that nothing is said on
        case _:
            body = bytes([stream]) * (1 + script.number(2) % 5000)
            budget = _budget((what & 15) - 4, what >> 4)
            before, ended = core.total_buffered, core.state
            reliable = not budget and not what & 0x80
            try:
                core.send(
                    stream if reliable else stream + 16,
                    len(said).to_bytes(4, "big") + body,
                    ppid=53,
                    now=net.now,
                    ordered=not what & 0x80,
                    **budget,
                )
            except UsageError:
                assert core.total_buffered == before
                assert ended not in (State.CLOSED, State.ESTABLISHED) or core.is_resetting(stream)
            else:
                if reliable:
                    said.append((stream, len(said).to_bytes(4, "big") + body))
    return False


def _finish_associations(
    net: Net[Association], said: tuple[list[tuple[int, bytes]], list[tuple[int, bytes]]], *, over: bool
) -> None:
    net.honest(300.0)
    calm = not net.forged and not over
    connected = any(isinstance(event, Established) for events in net.events for event in events)
    for which, core in enumerate(net.cores):
        events = net.events[which]
        ended = [event for event in events if isinstance(event, Ended)]
        assert bool(ended) == (core.state is State.ENDED)
        heard = [(event.stream_id, event.data) for event in events if isinstance(event, Message)]
        if not net.forged and not any(isinstance(event, Restarted) for event in events):
            for stream in range(8):
                mine = [body for number, body in heard if number == stream]
                theirs = [body for number, body in said[1 - which] if number == stream]
                assert mine == theirs[: len(mine)], "once, and in order"
                assert not (calm and connected and not ended) or mine == theirs, "all of it"
        if calm and connected and not ended:
            assert core.total_buffered == 0
            assert not any(core.is_resetting(stream) for stream in range(8))


# --- data channels ----------------------------------------------------------------------------------------------------


def check_channel_pair(data: bytes) -> None:
    """Two ends open, use and close channels; each channel has one end, and after an honest one none is half open."""
    script = Script(data)
    what = script.number()
    left, right = (
        DataChannels(_association(which, what >> 3), dtls_client=which == 0, max_channels_by_peer=8) for which in (0, 1)
    )
    net = Net(script, left, right)
    opened: tuple[list[int], list[int]] = ([], [])
    over = False
    if what & 1:
        left.connect(0.0)
        net.honest(0.1)
    while script:
        step = script.number()
        which = step >> 3 & 1
        core = net.cores[which]
        match step & 7:
            case 0:
                net.time_passes(script.number())
            case 1:
                core.connect(net.now)
            case 2:
                _open(script, net, which, opened[which])
            case 3 | 4:
                over |= _use_channel(script, net, which, opened[which])
            case 5:
                net.honest(0.5)
            case _:
                net.network(step >> 4 & 7, which)
        net.look(which)
    _finish_channels(net, opened, over=over)


def _open(script: Script, net: Net[DataChannels], which: int, opened: list[int]) -> None:
    what = script.number()
    core = net.cores[which]
    budget = _budget(what & 3, what >> 4)
    before = len(core.channels())
    try:
        opened.append(
            core.open(
                script.chunk().decode("latin-1"),
                protocol=script.chunk().decode("latin-1"),
                ordered=not what & 4,
                now=net.now,
                **budget,
            )
        )
    except UsageError:
        assert len(core.channels()) == before


def _use_channel(script: Script, net: Net[DataChannels], which: int, opened: list[int]) -> bool:
    """The user of one end does something with a channel, or ends all; whether it was that."""
    what = script.number()
    core = net.cores[which]
    known = [info.id for info in core.channels()] + opened
    match what & 15:
        case 0:
            core.abort("enough", net.now)
            return True
        case 1:
            core.shutdown(net.now)
            return True
        case 2 | 3 | 4 if known:
            core.close(known[script.number() % len(known)], net.now)
        case _ if known:
            channel, size = known[script.number() % len(known)], script.number(2) % 3000
            before = core.buffered(channel)
            try:
                core.send(channel, bytes([what]) * size, binary=bool(what & 16), now=net.now)
            except UsageError:
                assert core.buffered(channel) == before
    return False


def _finish_channels(net: Net[DataChannels], opened: tuple[list[int], list[int]], *, over: bool) -> None:
    net.honest(300.0)
    for which, core in enumerate(net.cores):
        events = net.events[which]
        ended = any(isinstance(event, Ended) for event in events)
        closed = _ids(event for event in events if isinstance(event, ChannelClosed))
        assert len(closed) == len(set(closed)), "two ends of one channel"
        begun = _ids(event for event in events if isinstance(event, ChannelOpened))
        assert len(begun) == len(set(begun))
        for at, event in enumerate(events):
            if isinstance(event, ChannelClosed):
                later = events[at + 1 :]
                assert not any(isinstance(one, ChannelOpened | ChannelMessage) and one.id == event.id for one in later)
        left_open = {info.id for info in core.channels()}
        assert set(opened[which]) <= left_open | set(closed), "a channel that is neither open nor closed"
        if ended:
            assert not left_open
        assert left_open <= set(begun), "an open without an end"
        if not net.forged and not over:
            assert all(core.buffered(channel) == 0 for channel in left_open)


def _ids(events: Iterable[ChannelOpened | ChannelClosed]) -> list[int]:
    return [event.id for event in events]
