"""DTLS records: cut at their boundaries, packed up to the MTU, numbered while plaintext."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.checks.dtls import check_records
from triosfu.dtls.records import (
    ALERT,
    APPLICATION_DATA,
    HANDSHAKE,
    HEADER,
    PlaintextNumbers,
    Record,
    is_one_of_data,
    pack,
    split,
)
from triosfu.errors import MalformedPacket


def record(content: bytes, *, kind: int = HANDSHAKE, epoch: int = 0, number: int = 0) -> Record:
    header = HEADER.pack(kind, 0xFEFD, epoch, 0, number, len(content))
    return Record(kind, epoch, header + content)


records = st.builds(
    record,
    st.binary(max_size=600),
    kind=st.sampled_from([20, 21, 22, 23]),
    epoch=st.integers(0, 2),
    number=st.integers(0, 9),
)


@given(st.binary(max_size=100))
def test_any_bytes(data: bytes) -> None:
    check_records(data)


@given(st.lists(records, min_size=1, max_size=8), st.binary(max_size=12))
def test_a_damaged_rest_does_not_hide_what_stands_before_it(whole: list[Record], rest: bytes) -> None:
    stream = b"".join(one.data for one in whole)
    assert split(stream + rest) == whole
    check_records(stream + rest)


@given(st.lists(records, min_size=1, max_size=8), st.data())
def test_truncation_loses_the_last_record_only(whole: list[Record], data: st.DataObject) -> None:
    stream = b"".join(one.data for one in whole)
    cut = data.draw(st.integers(1, len(whole[-1].data)))
    if len(whole) == 1:
        with pytest.raises(MalformedPacket):
            split(stream[:-cut])
    else:
        assert split(stream[:-cut]) == whole[:-1]


def test_other_versions_and_types_are_not_records() -> None:
    good = record(b"content").data
    for at, value in ((0, 25), (0, 0x2F), (1, 3), (11, 0xFF)):
        with pytest.raises(MalformedPacket):
            split(good[:at] + bytes([value]) + good[at + 1 :])


def test_datagrams_fill_up_to_the_mtu_and_larger_records_travel_alone() -> None:
    sizes = (100, 100, 287, 500, 50)  # content; each has 13 bytes of header
    whole = [record(bytes(size)) for size in sizes]
    assert [len(datagram) for datagram in pack(whole, 526)] == [526, 513, 63]
    assert [len(datagram) for datagram in pack(whole, 300)] == [226, 300, 513, 63]


def test_plaintext_records_never_share_a_number_and_encrypted_ones_keep_theirs() -> None:
    numbers = PlaintextNumbers()
    first, alert, encrypted = record(b"a"), record(b"b", kind=ALERT), record(b"c", epoch=1, number=7)
    sent = [numbers.renumber(one) for one in (first, encrypted, alert, first)]
    assert [HEADER.unpack_from(one.data)[4] for one in sent] == [0, 7, 1, 2]
    assert sent[1] is encrypted
    assert sent[3].data[13:] == first.data[13:]


@pytest.mark.parametrize(
    ("content_type", "version", "epoch", "rest", "expected"),
    [
        (APPLICATION_DATA, 0xFEFD, 1, b"", True),
        (APPLICATION_DATA, 0xFEFD, 0, b"", False),  # not encrypted: anybody on the path can write it
        (ALERT, 0xFEFD, 1, b"", False),
        (APPLICATION_DATA, 0x0303, 1, b"", False),
        (APPLICATION_DATA, 0xFEFD, 1, b"more", False),
    ],
)
def test_only_a_single_whole_encrypted_record_takes_the_short_way(
    content_type: int, version: int, epoch: int, rest: bytes, expected: bool
) -> None:
    record = HEADER.pack(content_type, version, epoch, 0, 7, 4) + b"data"
    assert is_one_of_data(record + rest) is expected
    assert not is_one_of_data(record[:-1])
    assert not is_one_of_data(record[:5])
