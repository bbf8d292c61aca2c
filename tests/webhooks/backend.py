"""An application's backend: an HTTP server on loopback, which reads what it is told by LiveKit's own receiver."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio
from livekit import api

from triosfu.net.http import Response, serve_http
from triosfu.net.listeners import open_listeners

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from livekit.protocol.webhook import WebhookEvent

    from triosfu.net.http import Request

KEY, SECRET = "devkey", "secret-of-thirty-two-characters-"


def verified(request: Request, key: str = KEY, secret: str = SECRET) -> WebhookEvent:
    """The event of a request, by livekit-api; it raises for one that is not from us."""
    receiver = api.WebhookReceiver(api.TokenVerifier(key, secret))
    event: WebhookEvent = receiver.receive(request.body.decode(), request.headers["authorization"])
    return event


async def accept(_: Request) -> Response:
    return Response.text(200, "OK")


@dataclass
class Backend:
    """What came, and what is answered."""

    url: str = ""
    answer: Callable[[Request], Awaitable[Response]] = accept
    requests: list[Request] = field(default_factory=list)
    events: list[WebhookEvent] = field(default_factory=list)  # those of requests that were answered with 200
    news: trio.Event = field(default_factory=trio.Event)
    times: list[float] = field(default_factory=list)  # of the requests
    secret: str = SECRET

    @property
    def names(self) -> list[str]:
        return [event.event for event in self.events]

    async def respond(self, request: Request) -> Response:
        self.requests.append(request)
        self.times.append(trio.current_time())
        event = verified(request, secret=self.secret)
        response = await self.answer(request)
        if response.status == 200:
            self.events.append(event)
            self.news.set()
            self.news = trio.Event()
        return response

    async def until(self, condition: Callable[[], bool], *, within: float = 10) -> None:
        with trio.fail_after(within):
            while not condition():
                await self.news.wait()


@asynccontextmanager
async def backend(secret: str = SECRET) -> AsyncIterator[Backend]:
    """A backend that listens while the block lasts."""
    listeners = await open_listeners(["127.0.0.1"], 0)
    here = Backend(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/hooks", secret=secret)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_http, listeners, here.respond)
        yield here
        nursery.cancel_scope.cancel()
