from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuzz.checks.whip import check_ice_fragment
from triosfu.errors import MalformedPacket
from triosfu.whip.fragment import MAX_CANDIDATES, Fragment

CANDIDATE = "candidate:1387637174 1 udp 2122260223 192.0.2.1 61764 typ host generation 0 ufrag EsAw network-id 1"
# RFC 9725, figure 3.
TRICKLED = f"""a=group:BUNDLE 0 1
m=audio 9 UDP/TLS/RTP/SAVPF 111
a=mid:0
a=ice-ufrag:EsAw
a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1
a={CANDIDATE}
a=end-of-candidates
""".replace("\n", "\r\n")
LINES = st.sampled_from([*TRICKLED.split("\r\n"), "a=ice-ufrag:other", f"a=candidate:2{CANDIDATE[9:]}", "c=x", "a="])


def test_the_example_of_the_rfc_is_read() -> None:
    fragment = Fragment.parse(TRICKLED.encode())
    assert fragment.credentials is not None
    assert (fragment.credentials.ufrag, fragment.credentials.pwd) == ("EsAw", "P2uYro0UCOQ4zxjKXaWCBui1")
    assert fragment.candidates == (CANDIDATE,)
    assert fragment.end_of_candidates
    assert "P2uYro0UCOQ4zxjKXaWCBui1" not in repr(fragment)


def test_sections_that_repeat_each_other_are_one() -> None:
    section = TRICKLED.partition("\r\n")[2]
    assert Fragment.parse((TRICKLED + section.replace("mid:0", "mid:1")).encode()) == Fragment.parse(TRICKLED.encode())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "v=0",
        "a=ice-ufrag:EsAw",
        "a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1",
        TRICKLED + "a=ice-ufrag:other\r\n",
        TRICKLED.replace("EsAw", "a:bc", 1),
        TRICKLED + "a=x:\0\r\n",
        "\r\n".join(["a=x"] * 1025),
        "a=" + "x" * 5000,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(MalformedPacket):
        Fragment.parse(text.encode())


def test_no_more_candidates_are_kept_than_can_be_used() -> None:
    many = "\r\n".join(f"a=candidate:{number}{CANDIDATE[20:]}" for number in range(200))
    assert len(Fragment.parse(many.encode()).candidates) == MAX_CANDIDATES


@given(st.binary(max_size=300) | st.lists(LINES, max_size=12).map(lambda lines: "\r\n".join(lines).encode()))
@example(TRICKLED.encode())
def test_any_fragment_is_read_or_refused(data: bytes) -> None:
    check_ice_fragment(data)
