"""What a WHIP client tells of ICE without a description."""

from __future__ import annotations

from triosfu.errors import MalformedPacket
from triosfu.sdp.transport import LocalTransport
from triosfu.whip.fragment import MAX_CANDIDATES, Fragment, describe


def check_ice_fragment(data: bytes) -> None:
    """What parses is bounded, and the same facts in our own words are read as the same fragment."""
    try:
        fragment = Fragment.parse(data)
    except MalformedPacket:
        return
    assert len(fragment.candidates) <= MAX_CANDIDATES
    if fragment.credentials is None:
        return
    local = LocalTransport(
        ufrag=fragment.credentials.ufrag,
        pwd=fragment.credentials.pwd,
        fingerprint="",
        candidates=list(fragment.candidates),
    )
    again = Fragment.parse(describe(local, mids=["0"], media="audio 9 UDP/TLS/RTP/SAVPF 111").encode())
    assert (again.credentials, again.candidates) == (fragment.credentials, fragment.candidates)
    assert again.end_of_candidates
