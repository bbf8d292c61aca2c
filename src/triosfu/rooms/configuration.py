"""How a room is set up: the operator's values, a named configuration on top, what its creator says on top of that.

Protocol reference, sections 2.2 and 8.6. `tags` have no meaning there, and none here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from triosfu.rooms.joining import JoinRefused

if TYPE_CHECKING:
    from livekit.protocol import room

    from triosfu.rooms.settings import RoomDefaults, RoomSettings

UNKNOWN: Final = "unknown room configuration in create room request"
LONGEST_DELAY: Final = 10_000  # milliseconds of playout delay, where only the least is said


def preset(settings: RoomSettings, name: str) -> RoomDefaults:
    """Return the configuration `name` of the operator's; without a name the usual values.

    Raises:
        JoinRefused: There is none of that name.
    """
    if not name:
        return settings.defaults
    found = settings.presets.get(name)
    if found is None:
        raise JoinRefused(400, UNKNOWN)
    return found


def overlaid(base: RoomDefaults, said: room.RoomConfiguration | room.CreateRoomRequest) -> RoomDefaults:
    """Return `base` with all that is said; what is left at zero, or empty, is not."""
    least, most = said.min_playout_delay, said.max_playout_delay
    return replace(
        base,
        empty_timeout=float(said.empty_timeout) or base.empty_timeout,
        departure_timeout=float(said.departure_timeout) or base.departure_timeout,
        max_participants=said.max_participants or base.max_participants,
        metadata=said.metadata or base.metadata,
        agents=tuple(said.agents) or base.agents,
        sync_streams=said.sync_streams or base.sync_streams,
        playout_delay=(least, max(least, most or LONGEST_DELAY)) if least or most else base.playout_delay,
    )
