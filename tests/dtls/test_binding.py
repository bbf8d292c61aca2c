"""The private pieces of pyOpenSSL are where we look for them, and we notice when they are not."""

from __future__ import annotations

from contextlib import suppress

import pytest
from OpenSSL import SSL

from triosfu.dtls import binding
from triosfu.dtls.binding import DirectRecords, PublicRecords, Records, records_of
from triosfu.dtls.certificate import Certificate

WAYS = [False, True]


def connected() -> tuple[SSL.Connection, SSL.Connection]:
    """Two connections whose handshake is complete."""
    client, server = (SSL.Connection(Certificate.generate().context(), None) for _ in range(2))
    client.set_connect_state()
    server.set_accept_state()
    for end in (client, server):
        end.set_ciphertext_mtu(1200)
    for _ in range(4):
        for end, other in ((client, server), (server, client)):
            with suppress(SSL.WantReadError):
                end.do_handshake()
            with suppress(SSL.WantReadError):
                other.bio_write(end.bio_read(1 << 16))
    return client, server


def test_this_pyopenssl_allows_the_direct_way() -> None:
    """Red means: a new pyOpenSSL moved its parts; data still flows, slower. Mend `dtls/binding.py`."""
    assert isinstance(records_of(connected()[0]), DirectRecords)


def test_without_the_private_parts_the_public_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = connected()
    assert isinstance(records_of(client, public=True), PublicRecords)
    monkeypatch.delattr(SSL, "_no_zero_allocator")
    assert not binding.direct_available()
    assert isinstance(records_of(client), PublicRecords)


@pytest.mark.parametrize("public", WAYS)
def test_both_ways_are_the_same(public: bool) -> None:
    ends = connected()
    near, far = (records_of(end, public=public) for end in ends)
    for size in (1, 1191, 1 << 14):
        record = near.seal(bytes(size))
        assert far.open(record) == bytes(size)
        refuses(far, record, SSL.WantReadError)  # a replay
    record = near.seal(b"data")
    refuses(far, record[:-1] + bytes([record[-1] ^ 1]), SSL.WantReadError)  # forged
    assert far.open(record) == b"data"
    ends[0].shutdown()
    refuses(far, ends[0].bio_read(1 << 16), SSL.ZeroReturnError)


@pytest.mark.parametrize("public", WAYS)
def test_both_ways_tell_all_that_was_written(public: bool) -> None:
    ends = connected()
    near = records_of(ends[0], public=public)
    assert near.written() == b""
    for _ in range(6):
        ends[0].send(bytes(1000))
    written = near.written()
    assert len(written) > 6000
    assert near.written() == b""
    ends[1].bio_write(written)
    assert [ends[1].recv(1 << 14) for _ in range(6)] == [bytes(1000)] * 6


def refuses(records: Records, record: bytes, error: type[SSL.Error]) -> None:
    with pytest.raises(error) as caught:
        records.open(record)
    assert type(caught.value) is error
