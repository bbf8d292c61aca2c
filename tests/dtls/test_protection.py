"""Records that go on where OpenSSL has stopped, against OpenSSL: each suite, both ends, replays, forgeries, nonces."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from triosfu.dtls.certificate import Certificate
from triosfu.dtls.protection import SUITES, WINDOW, Keys, Opener, Sealer
from triosfu.dtls.records import ALERT, APPLICATION_DATA, HEADER, Record, split

GCM = HEADER.size, HEADER.size + 8  # where a record tells its nonce


class Pair:
    """Two connections of OpenSSL's whose handshake is complete, and the last record that each has written in it."""

    def __init__(self, cipher: str, certificate: Certificate) -> None:
        context = certificate._make_context()
        context.set_cipher_list(f"ECDHE-ECDSA-{cipher}".encode())
        self.client, self.server = SSL.Connection(context, None), SSL.Connection(context, None)
        self.client.set_connect_state()
        self.server.set_accept_state()
        self.last = {self.client: b"", self.server: b""}
        for end in (self.client, self.server):
            end.set_ciphertext_mtu(1200)
        for _ in range(4):
            for end, other in ((self.client, self.server), (self.server, self.client)):
                with suppress(SSL.WantReadError):
                    end.do_handshake()
                with suppress(SSL.WantReadError):
                    written = end.bio_read(1 << 16)
                    other.bio_write(written)
                    self.last[end] = split(written)[-1].data

    def replaced(self, *, client: bool) -> tuple[Sealer, Opener, SSL.Connection]:
        """Ours in place of one end, and the other one."""
        here, there = (self.client, self.server) if client else (self.server, self.client)
        keys = Keys.of(here, client=client)
        assert keys is not None
        assert keys.local_key.hex() not in repr(keys)
        return Sealer(keys, self.last[here]), Opener(keys), there


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    return Certificate.generate()


@pytest.fixture(scope="module", params=sorted(SUITES))
def pair(request: pytest.FixtureRequest, certificate: Certificate) -> Pair:
    return Pair(request.param, certificate)


@pytest.mark.parametrize("client", [True, False], ids=["client", "server"])
def test_openssl_reads_what_ours_writes_and_the_other_way_round(certificate: Certificate, client: bool) -> None:
    for cipher in SUITES:
        sealer, opener, there = Pair(cipher, certificate).replaced(client=client)
        for size in (1, 1191, 1 << 14):
            record = sealer.seal(APPLICATION_DATA, bytes(size))
            there.bio_write(record)
            assert there.recv(1 << 14) == bytes(size)
            refuses(there, record, SSL.WantReadError)  # a replay
            there.send(bytes(size))
            record = there.bio_read(1 << 15)
            assert opener.open(record) == bytes(size)
            assert opener.open(record) is None
        refuses(there, sealer.seal(ALERT, bytes([1, 0])), SSL.ZeroReturnError)
        there.shutdown()
        assert opener.open(there.bio_read(1 << 15)) == bytes([1, 0])


def refuses(connection: SSL.Connection, record: bytes, error: type[SSL.Error]) -> None:
    connection.bio_write(record)
    with pytest.raises(error) as caught:
        connection.recv(1 << 14)
    assert type(caught.value) is error


def test_no_number_and_no_nonce_serves_twice(pair: Pair) -> None:
    sealer, _, _ = pair.replaced(client=True)
    last = pair.last[pair.client]
    records = [last]
    for _ in range(5):
        records.append(sealer.seal(APPLICATION_DATA, b"data"))
        records.append(sealer.seal_again(Record(APPLICATION_DATA, 1, records[-1])).data)
    first = int.from_bytes(last[3:11], "big")
    assert [int.from_bytes(record[3:11], "big") for record in records] == list(range(first, first + 11))
    if len(records[1]) > HEADER.size + 4 + 16:  # GCM: they tell the nonce
        first = int.from_bytes(last[slice(*GCM)], "big")
        told = [int.from_bytes(record[slice(*GCM)], "big") for record in records]
        assert told == [(first + number) % (1 << 64) for number in range(11)]


def test_what_is_sealed_again_carries_the_same(pair: Pair) -> None:
    near, _, _ = pair.replaced(client=True)
    _, far, _ = pair.replaced(client=False)
    record = near.seal(ALERT, b"content")
    again = near.seal_again(Record(ALERT, 1, record)).data
    assert again[:5] == record[:5]
    assert (far.open(record), far.open(again)) == (b"content", b"content")


@given(data=st.data())
def test_each_genuine_record_is_opened_once_within_the_window(pair: Pair, data: st.DataObject) -> None:
    """Against the plain rule: not yet seen, and not as far as the window behind the newest."""
    near, _, _ = pair.replaced(client=True)
    _, far, _ = pair.replaced(client=False)
    written = [near.seal(APPLICATION_DATA, b"%d" % number) for number in range(3 * WINDOW)]
    seen: set[int] = set()
    for number in data.draw(st.lists(st.integers(0, len(written) - 1), max_size=30)):
        fresh = number not in seen and number > max(seen, default=-1) - WINDOW
        assert far.open(written[number]) == (b"%d" % number if fresh else None)
        seen |= {number} if fresh else set()


@given(data=st.data())
def test_what_is_forged_is_not_opened_and_does_not_move_the_window(pair: Pair, data: st.DataObject) -> None:
    near, _, _ = pair.replaced(client=True)
    _, far, _ = pair.replaced(client=False)
    record = near.seal(APPLICATION_DATA, b"a packet")
    bits = st.integers(0, 8 * len(record) - 1).filter(lambda bit: not 88 <= bit < 104)  # but for the length: `split`
    bit = data.draw(bits)
    damaged = bytearray(record)
    damaged[bit // 8] ^= 1 << bit % 8
    assert far.open(bytes(damaged)) is None
    whole = data.draw(st.integers(HEADER.size, len(record) - 1))
    assert far.open(record[:whole]) is None
    assert far.open(record[: HEADER.size] + Random(bit).randbytes(whole)) is None
    assert far.open(record) == b"a packet"


def test_more_than_a_record_may_carry_is_dropped(pair: Pair) -> None:
    near, _, _ = pair.replaced(client=True)
    _, far, _ = pair.replaced(client=False)
    assert far.open(near.seal(APPLICATION_DATA, bytes((1 << 14) + 1))) is None
    assert far.open(near.seal(APPLICATION_DATA, bytes(1 << 14))) == bytes(1 << 14)


def test_a_cipher_that_is_no_aead_has_no_keys_here(certificate: Certificate) -> None:
    pair = Pair("AES128-SHA", certificate)
    assert pair.client.get_cipher_name() == "ECDHE-ECDSA-AES128-SHA"
    assert Keys.of(pair.client, client=True) is None
