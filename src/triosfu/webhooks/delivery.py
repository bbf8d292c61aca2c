"""Sends webhooks over HTTP: one task per receiver, which keeps its time, and one per attempt, under a deadline.

async with open_webhooks(urls, key, secret, rng=rng) as webhooks, trio.open_nursery() as nursery:
    nursery.start_soon(webhooks.run)
    webhooks.send("demo", event)  # returns at once
    await webhooks.drain()  # under a deadline of the caller's
"""

from __future__ import annotations

import base64
import hashlib
import ssl
import time
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import httpx
import structlog
import trio
from google.protobuf import json_format
from livekit.protocol.webhook import WebhookEvent

from triosfu import tokens
from triosfu.webhooks.core import Outbox, Schedule

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
    from random import Random

    from triosfu.webhooks.core import Delivery

log = structlog.get_logger(__name__)

CONTENT_TYPE: Final = "application/webhook+json"
USER_AGENT: Final = "LiveKit"  # what receivers' firewalls may look for
TOKEN_TTL: Final = 300.0  # seconds
ATTEMPT: Final = 10.0  # seconds for one attempt, from the address's look-up to the status
REST: Final = 1.0  # seconds for the rest of an answer whose status is known
MAX_ANSWER: Final = 64 << 10  # bytes of it that are read, so that its connection can be used again
LOOPBACK: Final = ("all://localhost", "all://127.0.0.1", "all://[::1]")
TOO_MANY: Final = 429


def render(event: WebhookEvent, *, num_dropped: int = 0) -> bytes:
    """The body of a request, as LiveKit writes it: lowerCamelCase, without defaults."""
    told = WebhookEvent(num_dropped=num_dropped)
    told.MergeFrom(event)
    return json_format.MessageToJson(told, indent=None, ensure_ascii=False).encode()


def authorization(body: bytes, key: str, secret: str, *, now: float) -> str:
    """The header that shows who wrote exactly this body: a token with its hash, valid for five minutes from `now`."""
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    return tokens.sign(tokens.Claims(sha256=digest), key, secret, now=now, ttl=TOKEN_TTL)


class Receiver:
    """One URL: what waits for it, and the attempts that are being made."""

    def __init__(
        self, url: str, key: str, secret: str, *, client: httpx.AsyncClient, rng: Random, schedule: Schedule
    ) -> None:
        self.url = url
        self.host = httpx.URL(url).host  # the rest may be secret
        self.outbox = Outbox(schedule, rng=rng)
        self._rng = rng
        self._key, self._secret = key, secret
        self._client = client
        self._alarm = trio.CancelScope()
        self._serving = trio.Lock()  # one loop at a time: that of `run`, or of `drain` when there is no other
        self._changed = trio.lowlevel.ParkingLot()  # for `drain`: nothing is left, or `run` has ended

    def send(self, room: str, event: WebhookEvent) -> None:
        """Queue an event of the room `room`; returns at once, whatever the receiver does."""
        self.outbox.push(room, event, trio.current_time())
        self._look()

    async def run(self) -> None:
        """Make the attempts that are due, until cancelled.

        Cancelled, it has ended its attempts; `drain` can make them again.
        """
        try:
            async with self._serving:
                while True:
                    await self._serve(until_empty=False)
        finally:
            self._changed.unpark_all()

    async def drain(self) -> None:
        """Try everything once more, and wait until nothing is left: give it a deadline. `run` may have been cancelled.

        Cancelled, it has ended its attempts; what is left stays.
        """
        self.outbox.drain()
        self._look()
        await trio.lowlevel.checkpoint()
        while len(self.outbox):
            if self._serving.locked():
                await self._changed.park()
            else:
                async with self._serving:
                    await self._serve(until_empty=True)

    async def _serve(self, *, until_empty: bool) -> None:
        try:
            await self._make_attempts(until_empty=until_empty)
        except* Exception as error:  # a bug here is nothing to the rooms; whatever was wrong was in the outbox
            log.exception("bug", doing="webhooks", receiver=self.host, exc_info=error)
            self.outbox = Outbox(self.outbox.schedule, rng=self._rng)
            self.outbox.counters["bugs"] += 1

    async def _make_attempts(self, *, until_empty: bool) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                for delivery in self.outbox.start(trio.current_time()):
                    nursery.start_soon(self._attempt, delivery, name=f"webhook of {delivery.room}")
                if not len(self.outbox):
                    self._changed.unpark_all()
                    if until_empty:
                        break
                await self._wait()

    async def _wait(self) -> None:
        with trio.CancelScope(deadline=self.outbox.next_timeout()) as self._alarm:
            await trio.sleep_forever()

    def _look(self) -> None:
        self._alarm.deadline = self.outbox.next_timeout()
        if not len(self.outbox):
            self._alarm.cancel()

    async def _attempt(self, delivery: Delivery) -> None:
        answer = _Answer()
        try:
            with trio.move_on_after(ATTEMPT):
                await self._post(delivery, answer)
        except (httpx.HTTPError, OSError) as error:
            answer.why = type(error).__name__  # its text may hold the address
        except Exception:
            log.exception("bug", doing="webhook", room=delivery.room)
            self.outbox.counters["bugs"] += 1
        except BaseException:  # cancelled, perhaps in a group
            answer.interrupted = True
            raise
        finally:
            self._take(delivery, answer)
            self._look()

    async def _post(self, delivery: Delivery, answer: _Answer) -> None:
        if not delivery.body:
            delivery.body = render(delivery.event, num_dropped=delivery.num_dropped)
        headers = {
            "Content-Type": CONTENT_TYPE,
            "User-Agent": USER_AGENT,
            "Authorization": authorization(delivery.body, self._key, self._secret, now=time.time()),
        }
        request = self._client.build_request("POST", self.url, headers=headers, content=delivery.body)
        request.stream = _Body(delivery.body)
        async with aclosing(await self._client.send(request, stream=True)) as response:
            answer.status = response.status_code
            size = 0
            with trio.move_on_after(REST) as scope:
                async for chunk in response.aiter_raw():
                    size += len(chunk)
                    if size > MAX_ANSWER:
                        scope.cancel()  # not `break`: that would leave httpx's generators to the collector

    def _take(self, delivery: Delivery, answer: _Answer) -> None:
        """Tell the outbox how an attempt went."""
        told = {"room": delivery.room, "told": delivery.event.event, "receiver": self.host, "why": str(answer)}
        if 200 <= answer.status < 300:
            self.outbox.succeeded(delivery)
        elif 300 <= answer.status < 500 and answer.status != TOO_MANY:
            self.outbox.refused(delivery)
            log.warning("webhook refused", **told)
        elif answer.interrupted:
            self.outbox.interrupted(delivery)
        elif self.outbox.failed(delivery, trio.current_time()):
            log.info("webhook failed", attempts=delivery.attempts, **told)
        else:
            log.warning("webhook given up", attempts=delivery.attempts, **told)


@dataclass(slots=True)
class _Answer:
    """What came of an attempt so far."""

    status: int = 0  # none yet
    interrupted: bool = False  # by our own end
    why: str = "no answer in time"

    def __str__(self) -> str:
        return f"status {self.status}" if self.status else self.why


class _Body(httpx.AsyncByteStream):
    """A body that is no generator: one of those would be left to the collector when its request is cancelled."""

    def __init__(self, data: bytes) -> None:
        self._left = [data]

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


class Webhooks:
    """All receivers of a server. What one of them does is nothing to the others."""

    def __init__(self, receivers: Iterable[Receiver]) -> None:
        self.receivers = tuple(receivers)

    def send(self, room: str, event: WebhookEvent) -> None:
        """Queue an event for every receiver; returns at once."""
        for receiver in self.receivers:
            receiver.send(room, event)

    def depths(self) -> Mapping[str, int]:
        """How many events of each room are not delivered yet, at the receiver that is farthest behind."""
        found: dict[str, int] = {}
        for receiver in self.receivers:
            for room, depth in receiver.outbox.depths().items():
                found[room] = max(depth, found.get(room, 0))
        return found

    async def run(self) -> None:
        """Serve every receiver until cancelled. Cancelled, all attempts have ended; `drain` can make them again."""
        async with trio.open_nursery() as nursery:
            for receiver in self.receivers:
                nursery.start_soon(receiver.run, name=f"webhooks to {receiver.host}")

    async def drain(self) -> None:
        """Try everything once more, and wait until nothing is left: give it a deadline. `run` may have been cancelled.

        Cancelled, it has ended its attempts; what is left stays.
        """
        async with trio.open_nursery() as nursery:
            for receiver in self.receivers:
                nursery.start_soon(receiver.drain, name=f"last webhooks to {receiver.host}")


def nobody() -> ssl.SSLContext:
    """What trusts no certificate at all; to read those that are trusted takes its time, and plain HTTP has no use."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@asynccontextmanager
async def open_webhooks(
    urls: Sequence[str], key: str, secret: str, *, rng: Random, schedule: Schedule | None = None
) -> AsyncIterator[Webhooks]:
    """Webhooks to `urls`, for somebody to run within the block. Left or cancelled, it has closed every connection."""
    schedule = schedule or Schedule()
    trust = httpx.create_ssl_context() if any(url.startswith("https:") for url in urls) else nobody()
    async with AsyncExitStack() as stack:
        receivers = []
        for url in dict.fromkeys(urls):
            client = httpx.AsyncClient(
                verify=trust,
                timeout=None,  # noqa: S113  an attempt has a deadline of ours
                limits=httpx.Limits(max_connections=schedule.concurrent, max_keepalive_connections=4),
                mounts=dict.fromkeys(LOOPBACK),  # no proxy leads there
            )
            await stack.enter_async_context(client)
            receivers.append(Receiver(url, key, secret, client=client, rng=rng, schedule=schedule))
        yield Webhooks(receivers)
