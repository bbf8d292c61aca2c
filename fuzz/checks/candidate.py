"""What must hold for any text given to the candidate parser."""

from __future__ import annotations

from triosfu.errors import MalformedPacket
from triosfu.ice.candidate import Candidate


def check_candidate(data: bytes) -> None:
    try:
        candidate = Candidate.parse(data.decode("utf-8", "replace"))
    except MalformedPacket:
        return
    line = str(candidate)
    assert line.startswith("candidate:")
    assert Candidate.parse(line) == candidate
    assert isinstance(candidate.reachable, bool)
