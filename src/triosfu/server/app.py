"""The composition root: from a configuration to a running server, and back to nothing.

    async with serve(config) as server:
        print(server.url, server.create_token(identity="alice", room="demo"))

Leaving the block ends every session: clients are told first, then everything is cancelled, within the grace.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from random import SystemRandom
from typing import TYPE_CHECKING

import structlog
import trio

from triosfu import logs
from triosfu.agents import workers
from triosfu.api import twirp
from triosfu.api.absent import absent_services
from triosfu.api.agent_dispatch import AgentDispatchService
from triosfu.api.rooms import RoomService
from triosfu.cluster.post import OWN, PUBLIC
from triosfu.dtls.certificate import Certificate
from triosfu.errors import ConfigError
from triosfu.metrics.sources import Sources
from triosfu.net.http import HttpServer, Limits, Request, Response, Upgrade
from triosfu.net.listeners import open_listeners
from triosfu.net.websocket import WebSocketLimits
from triosfu.peer import PeerConnection, PeerHandler, PeerSettings
from triosfu.rooms.directory import Rooms
from triosfu.rooms.joining import Services
from triosfu.server.addresses import open_mux
from triosfu.server.demo import Demo
from triosfu.server.inside import Inside
from triosfu.server.reachable import Reachable, nothing
from triosfu.server.settings import (
    agent_workers,
    configured_metrics,
    configured_webhooks,
    media_policy,
    room_settings,
    webhook_events,
)
from triosfu.server.task_tree import watching
from triosfu.signalling.routes import Signalling, token_refresher
from triosfu.whip.endpoint import Whip
from triosfu.whip.session import Sessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from triosfu.cluster.post import Post
    from triosfu.config import Config
    from triosfu.metrics.monitoring import Monitoring
    from triosfu.net.udp import UdpMux
    from triosfu.sdp.policy import MediaPolicy
    from triosfu.webhooks.delivery import Webhooks

log = structlog.get_logger(__name__)

GRACE = 5.0  # seconds for goodbyes
NTP_EPOCH = 2_208_988_800  # seconds from 1900, where NTP's time begins, to 1970


@dataclass(slots=True)
class PeerFactory:
    """Makes the peer connections of one server."""

    mux: UdpMux
    certificate: Certificate
    policy: MediaPolicy
    settings: PeerSettings
    rng: SystemRandom
    counters: Counter[str] = field(default_factory=Counter)  # of all of them

    def __call__(
        self, *, name: str, handler: PeerHandler, single: bool, offerer: bool, tcp_only: bool = False
    ) -> PeerConnection:
        """A new peer connection that nobody runs yet."""
        return PeerConnection(
            name=name,
            mux=self.mux,
            certificate=self.certificate,
            handler=handler,
            policy=self.policy,
            single=single,
            offerer=offerer,
            rng=self.rng,
            settings=self.settings,
            tcp_only=tcp_only,
            ntp_offset=time.time() + NTP_EPOCH - trio.current_time(),
            counters=self.counters,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Server(Reachable):
    """A running server."""

    rooms: Rooms
    mux: UdpMux
    webhooks: Webhooks | None
    agents: workers.Agents
    trio_token: trio.lowlevel.TrioToken = field(repr=False)  # for `trio.from_thread`, where the server has a thread

    @property
    def media_ports(self) -> list[int]:
        """The UDP ports that media comes to."""
        return sorted({port for _, port in self.mux.local_addresses})


@asynccontextmanager
async def serve(
    config: Config,
    *,
    grace: float = GRACE,
    post: Post | None = None,
    before: Callable[[Server], None] = nothing,
) -> AsyncIterator[Server]:
    """Serve until the block is left; then everybody is told, and after at most `grace` seconds nothing is left.

    `before` is called with the server when it has its ports, and has answered nobody yet.

    Cancelled, within the block or while it is entered, it has ended everything at once: no task, socket or timer stays.
    Clients' connections are closed, but not every client is told why.

    A worker process (docs/workers.md) has a `post`, which brings it connections: it listens to nobody but for media.

    Raises:
        ConfigError: A port or an address cannot be had; or `workers` are wanted, which only `triosfu run` starts.
    """
    if config.workers != 1:
        raise ConfigError("workers: worker processes are started by `triosfu run` only")
    logs.configure_by_default(level=config.logging.level, json=config.logging.json)
    rng = SystemRandom()
    keys = dict(config.keys)
    if not keys:
        # Nobody can make a token for these but this server's owner, by `create_token`.
        keys = {f"API{rng.randbytes(6).hex()}": rng.randbytes(32).hex()}
    async with AsyncExitStack() as stack:
        monitoring = await _monitoring(config, stack, port=post is None)
        webhooks = await stack.enter_async_context(configured_webhooks(config, rng)) if config.webhook.urls else None
        mux = await open_mux(config, stack)
        whip_sessions = Sessions()
        peers = PeerFactory(
            mux=mux,
            certificate=Certificate.generate(),
            policy=media_policy(config),
            settings=PeerSettings(ice_lite=config.rtc.use_ice_lite, tcp_only=config.rtc.force_tcp),
            rng=rng,
        )
        settings = room_settings(config, rng, node_id="" if post is None else post.node_id)
        told = None if webhooks is None else webhook_events(config.webhook, webhooks, rng)
        agents = agent_workers(config, keys, settings, rng, listener=told)
        rooms = Rooms(
            Services(
                peers=peers,
                rng=rng,
                settings=settings,
                refresh_token=token_refresher(keys),
                # Agents first: the end of a job is told before that of its room.
                listeners=(
                    agents.dispatches,
                    whip_sessions,
                    *([] if told is None else [told]),
                    *([] if monitoring is None else [monitoring.history]),
                    *([] if post is None else [post.presence]),
                ),
            )
        )
        signalling = Signalling(rooms, keys, limits=WebSocketLimits(message=config.limit.signal_message_size_limit))
        dispatch_service = AgentDispatchService(rooms, agents.dispatches).service()
        api = twirp.Twirp(keys, [RoomService(rooms).service(), dispatch_service, *absent_services()])
        whip = Whip(rooms, whip_sessions, keys, peers.policy)
        demo = Demo(keys) if config.development else None
        listeners, port = ([], config.port) if post is not None else await _listen(config, stack)

        async def respond(request: Request) -> Response | Upgrade:
            if request.path == "/":
                return health(request)
            if request.path.startswith(twirp.PREFIX):
                return await api.respond(request)
            if request.path == workers.PATH:
                return await agents.respond(request)
            if (answer := await whip.respond(request)) is not None:
                return answer
            if demo is not None and (page := demo.respond(request)) is not None:
                return page
            return await signalling.respond(request)

        log.info("packet_path", **mux.path())
        http = HttpServer(respond, limits=Limits(body=config.limit.max_api_request_body_size), clock=mux.clock)
        async with trio.open_nursery() as nursery:
            if webhooks is not None:
                nursery.start_soon(webhooks.run, name="webhooks")
            nursery.start_soon(agents.run, name="agents")
            await nursery.start(rooms.run, name="rooms")
            if monitoring is not None:
                mux.forwarded = monitoring.history.forwarding.observe
                sources = Sources(
                    mux=mux,
                    http=http,
                    signalling=signalling,
                    api=api,
                    rooms=rooms,
                    peers=peers.counters,
                    history=monitoring.history,
                    delay=monitoring.delay,
                    webhooks=webhooks,
                    whip=whip,
                    agents=agents,
                )
                await nursery.start(monitoring.run, sources, name="metrics")
            if post is not None:
                inside = Inside(stack.enter_context(watching()), None if monitoring is None else monitoring.page)
                doors = {PUBLIC: http, OWN: HttpServer(inside.respond, cross_origin=False)}
                await nursery.start(post.run, rooms, doors, name="post")
            server = Server(
                config=config, port=port, _keys=keys, rooms=rooms, mux=mux, webhooks=webhooks, agents=agents,
                trio_token=trio.lowlevel.current_trio_token(),
            )  # fmt: skip
            before(server)
            if post is None:  # last: whoever gets an answer finds everything else there
                await nursery.start(http.serve, listeners, name="http")
            try:
                yield server
            finally:
                rooms.close()
                with trio.move_on_after(grace, shield=True):
                    await rooms.wait_empty()
                    if webhooks is not None:
                        await webhooks.drain()
                nursery.cancel_scope.cancel()


async def _monitoring(config: Config, stack: AsyncExitStack, *, port: bool) -> Monitoring | None:
    if not config.prometheus.port:
        return None
    return await stack.enter_async_context(configured_metrics(config, port=port))


async def _listen(config: Config, stack: AsyncExitStack) -> tuple[list[trio.SocketListener], int]:
    """The sockets that clients connect to, and their port; `stack` closes them."""
    listeners = await open_listeners(config.bind_addresses, config.port)
    for listener in listeners:
        stack.callback(listener.socket.close)  # a start that is cancelled may not get as far as `serve_http`
    return listeners, listeners[0].socket.getsockname()[1]


def health(request: Request) -> Response:
    """LiveKit's health page."""
    if request.method not in {"GET", "HEAD"}:
        return Response.text(405, "Method Not Allowed")
    return Response.text(200, "OK")
