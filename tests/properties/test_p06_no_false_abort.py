"""P6: a peer that is heard now and then, or answers with a closed window, is never given up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.support.network import established
from tests.support.schedules import both, seeds, tight_windows
from triosfu.sctp.core import Message, State
from triosfu.sctp.wire import Data, Packet, Sack


def test_p6_a_path_that_works_once_in_ten_seconds_is_kept() -> None:
    network = established()
    left, _ = both(network)

    def swallow(_data: bytes, now: float) -> bool:
        return now % 9.0 > 3.2  # longer than the longest time-out: some SACK gets through

    network.paths[0].swallow = network.paths[1].swallow = swallow
    for _ in range(20):
        left.send(0, b"x" * 1000, ppid=53, now=1.0)
    left.reset_stream(9, 1.0)
    network.run(until=400.0)
    assert left.state is State.ESTABLISHED


def test_p6_a_full_receiver_is_probed_and_never_given_up() -> None:
    """A receiver without room for many minutes; it is alive as long as it answers."""
    network = established()
    left, right = both(network)
    # The receiver's window closes: it holds what it cannot deliver, and says so.
    inbound = right._connection.inbound
    assert inbound is not None
    inbound.held = inbound._buffer
    left.send(0, b"wake up", ppid=53, now=1.0)
    network.run(until=1.5)
    for number in range(50):
        left.send(0, bytes([number]) * 1100, ppid=53, now=1.5)
    network.paths[0].swallow = lambda data, now: (
        now < 300 and any(isinstance(c, Data) for c in Packet.parse(data).chunks)
    )

    def answer_probe(at: float) -> None:
        sack = Sack(left._connection.outbound.cumulative & 0xFFFFFFFF, 0)
        left.receive_datagram(Packet(5000, 5000, left._connection.handshake.tag, [sack]).serialize(), at)

    while network.now < 290.0:
        network.run(until=network.now + 2.5)
        answer_probe(network.now)
        assert left._connection.outbound.in_flight <= 1, "only one probe may be under way"
    assert left.state is State.ESTABLISHED
    inbound.held = 0
    network.run(until=330.0)
    assert len(network.of(1, Message)) == 51


@given(
    seed=seeds,
    period=st.floats(4.0, 9.5),
    light=st.floats(3.3, 4.0),
    phase=st.floats(0.0, 10.0),
    messages=st.integers(1, 40),
    window=st.one_of(st.none(), tight_windows),
)
def test_p6_a_path_that_answers_once_in_ten_seconds_is_kept(
    *, seed: int, period: float, light: float, phase: float, messages: int, window: int | None
) -> None:
    """It is open for a little longer than the longest time-out, so that one packet of each ten seconds is answered."""
    network = established(seed)
    left, right = both(network)

    def swallow(_data: bytes, now: float) -> bool:
        return (now + phase) % period > light

    network.paths[0].swallow = network.paths[1].swallow = swallow
    if window is not None:
        assert right._connection.inbound is not None
        right._connection.inbound._buffer = window
    left.reset_stream(9, 1.0)
    for number in range(messages):  # at all times something is lost, and something gets through
        network.run(until=1.0 + 5.0 * number)
        assert left.state is State.ESTABLISHED
        left.send(0, b"x" * 1000, ppid=53, now=network.now)
    network.run(until=250.0)
    assert left.state is State.ESTABLISHED
