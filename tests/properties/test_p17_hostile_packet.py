"""P17: whatever arrives, in each state: no exception escapes, memory and output stay bounded."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from fuzz.checks.sctp import check_sctp_association, pair
from tests.sctp.test_wire import chunks
from triosfu.sctp.core import State
from triosfu.sctp.wire import Chunk, Packet


@given(st.binary(max_size=1500), st.integers(0, 255))
def test_p17_any_datagram_in_any_state(body: bytes, state: int) -> None:
    core, _ = pair(state)
    core.receive_datagram(body, 0.0)
    assert len(core.datagrams_to_send()) <= 2


@given(st.binary(max_size=600))
@example(bytes.fromhex("0400140200001400000000000000000100000000000000"))
def test_p17_any_packets_with_right_headers_in_any_state(data: bytes) -> None:
    check_sctp_association(data)


@given(
    st.integers(0, 255), st.lists(st.tuples(st.lists(chunks, min_size=1, max_size=3), st.integers(0, 7)), max_size=8)
)
def test_p17_any_chunks_in_any_state(state: int, packets: list[tuple[list[Chunk], int]]) -> None:
    """Well-formed chunks with senseless content reach deeper than bytes do."""
    script = bytearray([state])
    for content, what in packets:
        body = b"".join(chunk.serialize() for chunk in content)[:0x7FF]
        script += (what << 13 | len(body)).to_bytes(2, "big") + body
    check_sctp_association(bytes(script))


@given(st.lists(chunks, min_size=1, max_size=3), st.integers(0, 2**32 - 1), st.integers(0, 255))
def test_p17_a_wrong_tag_changes_nothing(content: list[Chunk], tag: int, state: int) -> None:
    core, _ = pair(state)
    if core.state in (State.CLOSED, State.COOKIE_WAIT, State.ENDED) or tag in (
        0,
        core._connection.handshake.tag,
        core._connection.handshake.peer_tag,
    ):
        return
    outbound = core._connection.outbound
    before = (core.state, core.next_timeout(), outbound.cumulative, outbound.flight)
    core.receive_datagram(Packet(5000, 5000, tag, content).serialize(), 0.0)
    assert (core.state, core.next_timeout(), outbound.cumulative, outbound.flight) == before
    assert core.events() == []
    if core.state is not State.COOKIE_ECHOED:  # there a SHUTDOWN ACK of any tag is answered
        assert core.datagrams_to_send() == []
