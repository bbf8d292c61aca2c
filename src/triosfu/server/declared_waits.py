"""The waits that may be without a deadline, each with what ends it instead. Every other one is shown in red.

A wait belongs here for one of two reasons: it is the service itself, so it lasts as long as the server does; or
something else, which is named, ends what it waits for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

# A client may be silent for as long as it is there. A ping after 7.5 s without a word of ours keeps data moving, so one
# that is gone is found out.
PING: Final = "its client: the ping's write deadline (10 s) and TCP_USER_TIMEOUT end a connection that is dead"
ALARM: Final = "no deadline is armed, so there is nothing to be late for; arming one moves the end of this wait"

DECLARED: Final[Mapping[str, str]] = {
    "triosfu.net.reading:Reader.read_at_once": "the service: datagrams from anybody, until the server ends",
    "triosfu.net.reading:Reader.read_control": "the service: datagrams from anybody, until the server ends",
    "triosfu.net.udp:UdpMux._flush_when_asked": "the service: datagrams to send, until the server ends",
    "triosfu.net.listeners:serve_listener": "the service: connections from anybody",
    "triosfu.net.tcp:TcpPort._accept": "the service: connections from anybody",
    "triosfu.net.tcp:Connection._read": "the end of its peer connection, whose cores give up in time",
    "triosfu.rooms.directory:Rooms.run": "the service: holds the rooms, until the server ends",
    "triosfu.cluster.control:Control.receive": "the other process: what it says each second, or its end",
    "triosfu.cluster.control:Control.run": "the end of the control socket; what waits here is bounded",
    "triosfu.cluster.post:Post.until_told": "the service: the front says stop, or is gone",
    "triosfu.server.admin:serve_admin": "the service: somebody who asks for this tree",
    "triosfu.server.until_signalled:run_until_signalled": "the service: SIGINT or SIGTERM",
    "triosfu.server.until_signalled:_insist": "a second signal, while the first one's goodbyes take their grace",
    "trio._core._entry_queue:EntryQueue.task": "trio's own: calls from other threads and signals",
    "triosfu.net.websocket:_Wire._read_some": PING,
    "triosfu.net.websocket:_Wire.wait": PING,
    "triosfu.net.clock:Clock.run": ALARM,
    "triosfu.rooms.deadlines:Deadlines.run": ALARM,
    "triosfu.agents.workers:Agents.run": ALARM,
    "triosfu.webhooks.delivery:Receiver._wait": "nothing is due: an event, or the answer to one, moves the end of this",
    "triosfu.peer.waiting:WaitingPlace.wait_until": "the end of its peer connection, whose cores give up in time",
    "triosfu.peer.channel:DataChannel.send": "the writer before it in the same channel, and the peer connection's end",
}
