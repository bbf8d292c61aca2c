"""The lines that name what is sent in a section: `msid`, `ssrc`, `ssrc-group`, `rid` and `simulcast`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from triosfu.errors import MalformedPacket
from triosfu.sdp.scan import Attributes, last, number, token, words

MAX_SSRCS = 64  # per section
MAX_RIDS = 16
MAX_MSIDS = 16


@dataclass(frozen=True, slots=True)
class Msid:
    """A stream and its track (RFC 8830). `track` is empty when only one word was given; stream "-" means none."""

    stream: str
    track: str = ""

    @classmethod
    def parse(cls, value: str) -> Self:
        """Read `<stream> [<track>]`."""
        stream, *rest = words(value, "msid", 1)
        return cls(stream, rest[0] if rest else "")

    def serialize(self) -> str:
        """The value that `parse` reads back."""
        return f"{self.stream} {self.track}".rstrip()


@dataclass(frozen=True, slots=True)
class Ssrc:
    """What the `ssrc` lines of one source say (RFC 5576)."""

    ssrc: int
    cname: str = ""
    msid: Msid | None = None

    def lines(self) -> list[str]:
        """The values of the source's lines; `mslabel` and `label` are for clients older than `msid`."""
        values = [f"{self.ssrc} cname:{self.cname}"]
        if self.msid:
            values.append(f"{self.ssrc} msid:{self.msid.serialize()}")
            if self.msid.track:
                values += [f"{self.ssrc} mslabel:{self.msid.stream}", f"{self.ssrc} label:{self.msid.track}"]
        return values


@dataclass(frozen=True, slots=True)
class SsrcGroup:
    """Sources that belong together: FID is a stream and its RTX, SIM the layers of old-style simulcast."""

    semantics: str
    ssrcs: tuple[int, ...]

    @classmethod
    def read(cls, attributes: Attributes) -> tuple[Self, ...]:
        """Every `ssrc-group` line of a section."""
        groups = []
        for value in attributes.get("ssrc-group", [])[:MAX_SSRCS]:
            semantics, *ssrcs = words(value, "ssrc-group", 2)
            groups.append(cls(semantics, tuple(number(ssrc, "ssrc") for ssrc in ssrcs[:MAX_SSRCS])))
        return tuple(groups)

    def serialize(self) -> str:
        """The value that `read` reads back."""
        return " ".join([self.semantics, *map(str, self.ssrcs)])


@dataclass(frozen=True, slots=True)
class Rid:
    """One simulcast layer's name and who sends it (RFC 8851); restrictions are left out."""

    id: str
    direction: str  # "send" or "recv"

    def serialize(self) -> str:
        """The value of the line."""
        return f"{self.id} {self.direction}"


@dataclass(frozen=True, slots=True)
class Simulcast:
    """The layers in the writer's order (RFC 8853): of alternatives the first, without the mark of a paused one."""

    send: tuple[str, ...] = ()
    recv: tuple[str, ...] = ()

    @classmethod
    def read(cls, attributes: Attributes) -> Self | None:
        """The `simulcast` line of a section, or None."""
        value = last(attributes, "simulcast")
        if value is None:
            return None
        parts = words(value, "simulcast", 2)
        lists: dict[str, tuple[str, ...]] = {}
        for direction, layers in zip(parts[::2], parts[1::2], strict=False):
            if direction not in {"send", "recv"}:
                raise MalformedPacket("sdp: simulcast is neither send nor recv")
            # "rid=" is what drafts, and with them older Firefox, wrote before the list.
            names = layers.removeprefix("rid=").split(";")
            first = (alternatives.partition(",")[0].removeprefix("~") for alternatives in names)
            lists[direction] = tuple(dict.fromkeys(token(name, "rid") for name in first))[:MAX_RIDS]
        return cls(lists.get("send", ()), lists.get("recv", ()))

    def serialize(self) -> str:
        """The value that `read` reads back."""
        lists = (("send", self.send), ("recv", self.recv))
        return " ".join(f"{direction} {';'.join(layers)}" for direction, layers in lists if layers)


def read_msids(attributes: Attributes) -> tuple[Msid, ...]:
    """Every `msid` line of a section."""
    return tuple(dict.fromkeys(Msid.parse(value) for value in attributes.get("msid", [])[:MAX_MSIDS]))


def read_ssrcs(attributes: Attributes) -> tuple[Ssrc, ...]:
    """The sources of a section in the order of their first lines."""
    found: dict[int, Ssrc] = {}
    for value in attributes.get("ssrc", []):
        text, _, attribute = value.partition(" ")
        ssrc = number(text, "ssrc")
        known = found.get(ssrc, Ssrc(ssrc))
        name, _, rest = attribute.strip().partition(":")
        if name == "cname":
            known = Ssrc(ssrc, " ".join(rest.split()), known.msid)
        elif name == "msid" and rest.strip():
            known = Ssrc(ssrc, known.cname, Msid.parse(rest))
        if ssrc in found or len(found) < MAX_SSRCS:
            found[ssrc] = known
    return tuple(found.values())


def read_rids(attributes: Attributes) -> tuple[Rid, ...]:
    """Every `rid` line of a section, each name once."""
    found: dict[str, Rid] = {}
    for value in attributes.get("rid", []):
        name, direction, *_ = words(value, "rid", 2)
        if direction not in {"send", "recv"}:
            raise MalformedPacket("sdp: rid is neither send nor recv")
        found.setdefault(name, Rid(name, direction))
    return tuple(found.values())[:MAX_RIDS]
