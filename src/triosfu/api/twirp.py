"""Twirp over HTTP: `POST /twirp/livekit.<Service>/<Method>`, one deadline for each call, errors that say what was done.

    twirp = Twirp(keys, [room_service(rooms)])
    response = await twirp.respond(request)

The token comes first: who has none that is good never has a body parsed. Protocol reference, section 8.1.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog
import trio
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from triosfu.api.errors import JSON, TwirpError, bad_route
from triosfu.api.grants import DENIED
from triosfu.api.messages import PROTOBUF, content_type, parse, serialize
from triosfu.errors import UsageError
from triosfu.net.http import Response
from triosfu.tokens import Claims, TokenError, token_of, verify

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

    from triosfu.net.http import Request

log = structlog.get_logger(__name__)

PREFIX: Final = "/twirp/"
DEADLINE: Final = 10.0  # seconds for one call, from its request's last byte on
REQUEST_ID: Final = "x-livekit-request-id"  # of SDKs that may send a call twice
LARGE: Final = 64 * 1024  # bytes of a message that another thread reads or writes: others are served meanwhile

Outcome = Message | Awaitable[Message]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """What answers one RPC; `undone` says how things are when its deadline passes."""

    call: Callable[[Claims, Any], Outcome] | None = None
    identified: Callable[[Claims, Any, str], Outcome] | None = None  # in its place; it is told the request's id, too
    undone: str = "nothing was done"
    deadline: float = 0.0  # seconds, where the call has another one than the rest

    def answer(self, claims: Claims, message: Message, request_id: str) -> Outcome:
        """Make the call."""
        if self.identified is not None:
            return self.identified(claims, message, request_id)
        if self.call is None:
            raise UsageError("twirp: a method without a call")
        return self.call(claims, message)


@dataclass(frozen=True, slots=True)
class Service:
    """The RPCs of one service by name; one that the protocol has and `methods` lacks is unimplemented."""

    descriptor: ServiceDescriptor
    methods: Mapping[str, Method]


class Answered(NamedTuple):
    """One way in which calls have been answered: there are as many as RPCs and codes."""

    service: str  # empty, like the method, where there is no such route
    method: str
    family: str  # of the HTTP status, such as 4xx
    code: str  # ok, or Twirp's


@dataclass(frozen=True, slots=True)
class _Route:
    service: str
    name: str
    request: type[Message]
    method: Method | None


class Twirp:
    """Answers the calls to some services."""

    def __init__(
        self,
        keys: Mapping[str, str],
        services: Sequence[Service],
        *,
        deadline: float = DEADLINE,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.answered: Counter[Answered] = Counter()
        self._keys = keys
        self._deadline = deadline
        self._wall_clock = wall_clock
        self._routes = {
            f"{PREFIX}{service.descriptor.full_name}/{name}": _Route(
                service.descriptor.name, name, GetMessageClass(method.input_type), service.methods.get(name)
            )
            for service in services
            for name, method in service.descriptor.methods_by_name.items()
        }

    async def respond(self, request: Request) -> Response:
        """Answer one call, within the deadline. Cancelled, the call was made as a whole or not at all.

        The exception is `PerformRpc`: a participant may perform what it was asked, and nobody hears of it.
        """
        code = "unauthenticated"
        try:
            claims = self._claims(request)
            response = await self._respond(request, claims)
            code = "ok"
        except TokenError as refusal:
            self.counters["refused"] += 1
            response = Response.text(refusal.status, refusal.text)
        except TwirpError as error:
            self.counters[error.code] += 1
            code, response = error.code, error.response()
        except Exception:  # a bug in one call ends that call only
            log.exception("bug", path=request.path)
            self.counters["bugs"] += 1
            code, response = "internal", TwirpError("internal", "internal error").response()
        route = self._routes.get(request.path)
        service, method = ("", "") if route is None else (route.service, route.name)
        self.answered[Answered(service, method, f"{response.status // 100}xx", code)] += 1
        return response

    def _claims(self, request: Request) -> Claims | None:
        token = token_of(request.headers.get("authorization"), request.get("access_token"))
        return None if token is None else verify(token, self._keys, now=self._wall_clock())

    async def _respond(self, request: Request, claims: Claims | None) -> Response:
        route, content = self._route(request)
        if claims is None:
            raise TwirpError("unauthenticated", DENIED)
        if route.method is None:
            raise TwirpError("unimplemented", f"{route.name} is not implemented")
        left, patience = route.method.undone, route.method.deadline or self._deadline
        with trio.move_on_after(patience):
            message = await at_leisure(len(request.body), partial(parse, route.request, request.body, content))
            outcome = route.method.answer(claims, message, request.headers.get(REQUEST_ID, ""))
            answer = outcome if isinstance(outcome, Message) else await outcome
            left = "it was done, and only the answer is missing"
            body = await at_leisure(answer.ByteSize(), partial(serialize, answer, content))
            self.counters[route.name] += 1
            return Response(200, body, [("Content-Type", content)])
        raise TwirpError("deadline_exceeded", f"{route.name} took longer than {patience:g} s: {left}")

    def _route(self, request: Request) -> tuple[_Route, str]:
        """Where a call goes, and what it is written in; the checks are in the order of Twirp's own servers."""
        if request.method != "POST":
            text = f'unsupported method "{request.method}" (only POST is allowed)'
            raise bad_route(text, request.method, request.path)
        route = self._routes.get(request.path)
        if route is None:
            raise bad_route(f'no handler for path "{request.path}"', request.method, request.path)
        header = request.headers.get("content-type", "")
        content = content_type(header)
        if content not in {JSON, PROTOBUF}:
            raise bad_route(f'unexpected Content-Type: "{header}"', request.method, request.path)
        return route, content


async def at_leisure(size: int, work: Callable[[], Any]) -> Any:  # noqa: ANN401  whatever `work` makes
    """Do something that takes long for a large message without keeping everybody else waiting.

    Cancelled, it may have been done, and nobody gets what came of it.
    """
    if size <= LARGE:
        return work()
    return await trio.to_thread.run_sync(work, abandon_on_cancel=True)
