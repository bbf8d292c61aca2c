"""P9: a cancelled `send` has sent its message whole, and then returned, or has left nothing of it behind."""

from __future__ import annotations

from dataclasses import dataclass, field

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.stage import Stage
from tests.support.ways import seeds, some
from triosfu.errors import PeerGone
from triosfu.peer import DataChannel, PeerSettings

NARROW = PeerSettings(high_water=5_000)
LABELS = ("first", "second")


@dataclass(eq=False)
class Writer:
    """One `send` of one message, which no other is like."""

    channel: DataChannel
    message: bytes
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    within: bool = False


class CancelMachine(RuleBasedStateMachine):
    """Messages on two channels, each sent by a task of its own, many of which are cancelled at some moment."""

    @initialize(seed=seeds)
    def connect(self, seed: int) -> None:
        self.sent: dict[str, list[bytes]] = {label: [] for label in LABELS}  # for which `send` has returned
        self.writers: list[Writer] = []
        self.stage = Stage(lambda _resting: None, seed=seed, settings=NARROW)
        self.both = self.stage.both
        self.stage.call(self.both.offerer.peer.negotiation.enable_data)
        self.stage.call(self.both.negotiate)
        self.channels = [self.stage.call(self.both.offerer.peer.open_channel, label) for label in LABELS]
        self.stage.pass_time(1.0)
        self.both.out.rate = 20_000.0

    async def send(self, writer: Writer, passes: int | None) -> None:
        with writer.scope:
            if passes == 0:
                writer.scope.cancel()
            writer.within = True
            try:
                await writer.channel.send(writer.message)
            except PeerGone:
                return
            finally:
                writer.within = False
            self.sent[writer.channel.label].append(writer.message)

    async def cancel_after(self, writer: Writer, passes: int) -> None:
        for _ in range(passes):
            await trio.lowlevel.checkpoint()
        writer.scope.cancel()

    def begin(self, which: int, size: int, passes: int | None = None) -> None:
        message = len(self.writers).to_bytes(4, "big") + bytes(size)
        writer = Writer(self.channels[which], message)
        self.writers.append(writer)

        def start() -> None:
            self.stage.nursery.start_soon(self.send, writer, passes)
            if passes:
                self.stage.nursery.start_soon(self.cancel_after, writer, passes)

        self.stage.call(start)

    @rule(which=st.integers(0, 1), sizes=st.lists(st.sampled_from([0, 1_000, 4_000, 9_000]), min_size=1, max_size=6))
    def messages_are_sent(self, which: int, sizes: list[int]) -> None:
        for size in sizes:
            self.begin(which, size)

    @rule(which=st.integers(0, 1), size=st.sampled_from([0, 4_000]), passes=st.integers(0, 4))
    def a_message_is_sent_and_soon_cancelled(self, which: int, size: int, passes: int) -> None:
        self.begin(which, size, passes)

    @rule(which=st.integers(0, 1), size=st.sampled_from([0, 4_000]))
    def a_message_is_queued_at_once(self, which: int, size: int) -> None:
        message = b"\xff" + len(self.writers).to_bytes(4, "big") + bytes(size)
        channel = self.channels[which]
        if self.stage.call(channel.send_nowait, message):
            self.sent[channel.label].append(message)

    @precondition(lambda self: any(writer.within for writer in self.writers))
    @rule(which=st.integers(0, 30))
    def a_parked_one_is_cancelled(self, which: int) -> None:
        """Nothing else happens meanwhile, so nothing may have changed."""
        parked = [writer for writer in self.writers if writer.within]
        writer = parked[which % len(parked)]
        before = self.stage.call(self.books)
        self.stage.call(writer.scope.cancel)
        assert not writer.within
        assert self.stage.call(self.books) == before

    def books(self) -> list[tuple[int, int, int]]:
        """What the core knows of each channel."""
        peer = self.both.offerer.peer
        queue = peer._data._association._connection.outbound.queue
        streams = (queue.stream(stream_id) for stream_id in sorted(queue.known_streams()))
        return [(stream.buffered, stream.unsent, stream.next_ssn) for stream in streams]

    @precondition(lambda self: any(writer.within for writer in self.writers))
    @rule(which=st.integers(0, 30), milliseconds=st.sampled_from([1, 10, 20, 50, 70, 300]))
    def a_parked_one_is_given_a_deadline(self, which: int, milliseconds: int) -> None:
        parked = [writer for writer in self.writers if writer.within]
        deadline = self.stage.call(trio.current_time) + milliseconds / 1000
        self.stage.call(setattr, parked[which % len(parked)].scope, "deadline", deadline)

    @precondition(lambda self: sum(writer.within for writer in self.writers) > 1)
    @rule(chosen=st.sets(st.integers(0, 9), min_size=2))
    def several_are_cancelled_together(self, chosen: set[int]) -> None:
        parked = [writer for writer in self.writers if writer.within]

        def cancel() -> None:
            for number in sorted({number % len(parked) for number in chosen}):
                parked[number].scope.cancel()

        before = self.stage.call(self.books)
        self.stage.call(cancel)
        assert self.stage.call(self.books) == before

    @rule(seconds=st.sampled_from([0.01, 0.05, 0.2, 1.0]), loss=st.sampled_from([0.0, 0.0, 0.2]))
    def time_passes(self, seconds: float, loss: float) -> None:
        for way in self.both.ways:
            way.loss = loss
        self.stage.pass_time(seconds)

    def received(self, label: str) -> list[bytes]:
        return [data for name, data, _ in self.both.answerer.messages if name == label]

    @invariant()
    def what_arrives_is_what_was_sent_in_order_and_whole(self) -> None:
        if hasattr(self, "stage"):
            for label in LABELS:
                received = self.received(label)
                assert received == self.sent[label][: len(received)]

    def teardown(self) -> None:
        """On a path that works again all of it arrives."""
        if not hasattr(self, "stage"):
            return
        try:
            self.both.mend()
            self.both.out.rate = 1e9
            self.stage.pass_time(10.0)
            for label, channel in zip(LABELS, self.channels, strict=True):
                assert self.received(label) == self.sent[label]
                assert not channel.buffered
            assert not any(writer.within for writer in self.writers)
            kept = {writer.message for writer in self.writers if not writer.scope.cancelled_caught}
            assert kept <= {message for messages in self.sent.values() for message in messages}
        finally:
            self.stage.close()


CancelMachine.TestCase.settings = settings(some(3), stateful_step_count=25)
TestP9Cancel = CancelMachine.TestCase
