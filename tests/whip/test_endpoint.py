"""What HTTP requests to `/whip/v1` and `/whep/v1` are answered, before and after there is a session."""

from __future__ import annotations

import json
import re
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from livekit.protocol import rtc

from tests.signalling.world import KEYS, offer_of, running
from tests.support.held import held
from tests.support.whip import FRAGMENT, SDP, Answer, request, watching
from triosfu.net.http import Headers, Request, serve_http
from triosfu.net.listeners import open_listeners
from triosfu.rooms.settings import Limits, RoomSettings
from triosfu.sdp.policy import MediaPolicy
from triosfu.sdp.wire import SessionDescription
from triosfu.whip.endpoint import Whip
from triosfu.whip.session import BURST, Sessions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.signalling.world import World
    from triosfu.net.http import Response

PUBLISH, WATCH = "/whip/v1", "/whep/v1"
OFFER = offer_of("chromium_publish_simulcast")
VIEW = offer_of("aiortc_recvonly")
TURN = rtc.ICEServer(urls=["turn:a?transport=udp", "turns:a"], username='u"x', credential="c\\y")


class Clients:
    """Requests to one server; most of them need no socket."""

    def __init__(self, world: World, sessions: Sessions) -> None:
        self.world = world
        self.now = time.time()
        self.sessions = sessions
        self.whip = Whip(world.rooms, self.sessions, KEYS, MediaPolicy(), wall_clock=lambda: self.now)

    async def ask(
        self, method: str, target: str, body: str | bytes = b"", token: str | None = None, **headers: str
    ) -> Answer:
        path, _, query = target.partition("?")
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        data = body.encode() if isinstance(body, str) else body
        parameters = {name: [value] for name, _, value in (pair.partition("=") for pair in query.split("&") if pair)}
        response = await self.whip.respond(
            Request(method, target, path, parameters, Headers(fields), data, ("192.0.2.7", 1))
        )
        assert response is not None
        return answer_of(response)

    async def post(
        self,
        target: str = PUBLISH,
        offer: str | bytes = OFFER,
        identity: str = "alice",
        **grants: Any,  # noqa: ANN401  protobuf fields
    ) -> Answer:
        return await self.ask("POST", target, offer, self.world.token(identity, **grants), Content_Type=SDP)

    async def patch(self, begun: Answer, fragment: str, **headers: str) -> Answer:
        headers = {"Content_Type": FRAGMENT, "If_Match": begun.headers["etag"], **headers}
        return await self.ask("PATCH", begun.headers["location"], fragment, self.world.token("alice"), **headers)


def answer_of(response: Response) -> Answer:
    headers: dict[str, str] = {}
    for name, value in response.headers:
        headers[name.lower()] = f"{headers[name.lower()]}, {value}" if name.lower() in headers else value
    return Answer(response.status, headers, response.body.decode())


class Told:
    """A listener to rooms, as webhooks and agents are."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __getattr__(self, name: str) -> Callable[[object], None]:
        return lambda _: self.events.append(name)


@asynccontextmanager
async def serving(settings: RoomSettings | None = None, told: Told | None = None) -> AsyncIterator[Clients]:
    sessions = Sessions()
    async with running(settings, (sessions, *([told] if told else []))) as world:
        yield Clients(world, sessions)


def credentials(offer: str) -> tuple[str, str]:
    ice = SessionDescription.parse(offer).media[0].ice
    assert ice is not None
    return ice.ufrag, ice.pwd


def fragment(ufrag: str, pwd: str, *more: str) -> str:
    return "\r\n".join([f"a=ice-ufrag:{ufrag}", f"a=ice-pwd:{pwd}", *more, ""])


async def test_an_offer_is_answered_as_a_whole_and_publishes() -> None:
    async with serving() as clients:
        begun = await clients.post()
        participant = clients.world.participant()
        assert (begun.status, begun.headers["content-type"]) == (201, SDP)
        assert begun.headers["location"] == f"{PUBLISH}/{participant.sid}"
        answer = SessionDescription.parse(begun.body)
        assert begun.headers["etag"] == f'"{answer.media[0].ice.ufrag}"'  # type: ignore[union-attr]
        assert {section.direction for section in answer.media if section.kind != "application"} == {"recvonly"}
        assert answer.media[0].candidates
        assert answer.media[0].end_of_candidates, "all there will be"
        simulcast = next(section.simulcast for section in answer.media if section.simulcast)
        assert len(simulcast.recv) == 3
        (info,) = [publication.info for publication in participant.publications if publication.kind == "video"]
        assert info.name == "synthesized-camera"
        assert [(layer.quality, layer.spatial_layer) for layer in info.layers] == [(0, 0), (1, 1), (2, 2)]
        assert participant.options.client.address == "192.0.2.7"


async def test_a_viewer_is_answered_with_places_that_are_there_from_the_start() -> None:
    for offer in (VIEW, VIEW.replace("a=recvonly", "a=sendrecv")):
        async with serving() as clients:
            begun = await clients.post(WATCH, offer)
            assert begun.status == 201
            answer = SessionDescription.parse(begun.body)
            assert {section.direction for section in answer.media} == {"sendonly"}
            assert all(section.ssrcs for section in answer.media)
            assert len({section.msids[0].stream for section in answer.media}) == 1, "one MediaStream"
            assert not len(clients.world.participant().publications)


async def test_who_cannot_be_let_in_in_time_is_told_and_may_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    late = "joining took longer than 10 s: nobody was let in"
    async with serving() as clients:
        with monkeypatch.context() as patch:
            patch.setattr("triosfu.rooms.directory.PATIENCE", 0.05)
            async with held(clients.world.rooms._creating):  # a room is being made, and does not get done
                for begun in (await clients.post(), await clients.post(WATCH, VIEW)):
                    assert (begun.status, json.loads(begun.body)["detail"]) == (503, late)
                for query in ("protocol=17", "protocol=17&json=1"):
                    assert await clients.world.refusal(f"/rtc?{query}", clients.world.token()) == (503, late)
        assert not len(clients.world.rooms)
        assert (await clients.post()).status == 201


REFUSED = {
    "no token": (("POST", PUBLISH, OFFER, None), 401),
    "a bad token": (("POST", PUBLISH, OFFER, "x.y.z"), 401),
    "another type": (("POST", PUBLISH, OFFER, "", "text/plain"), 400),
    "no type": (("POST", PUBLISH, OFFER, "", ""), 400),
    "no sdp": (("POST", PUBLISH, "hello", ""), 400),
    "no text": (("POST", PUBLISH, b"\xff\xfe", ""), 400),
    "too large": (("POST", PUBLISH, OFFER + "a" * 300_000, ""), 413),
    "nothing to send": (("POST", PUBLISH, VIEW, ""), 422),
    "no section": (("POST", PUBLISH, OFFER[: OFFER.index("m=")], ""), 422),
    "half of it inactive": (("POST", PUBLISH, OFFER.replace("a=sendonly", "a=inactive", 1), ""), 422),
    "a codec that nobody has": (("POST", PUBLISH, re.sub(r"(opus|red|PCM[UA])/", "other/", OFFER), ""), 422),
    "outside the bundle": (("POST", PUBLISH, OFFER.replace("a=group:BUNDLE 0 1 2", "a=group:BUNDLE 0 1"), ""), 422),
    "no certificate": (("POST", PUBLISH, OFFER.replace("a=fingerprint", "a=other"), ""), 422),
    "sends to watch": (("POST", WATCH, OFFER, ""), 422),
    "put": (("PUT", PUBLISH, OFFER, ""), 405),
    "patch of the endpoint": (("PATCH", PUBLISH, OFFER, ""), 405),
    "another's session": (("DELETE", f"{PUBLISH}/PA_unknown", "", ""), 404),
    "a session, without a token": (("DELETE", f"{PUBLISH}/PA_unknown", "", None), 401),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_cannot_be_is_refused_with_a_reason_and_nobody_joins(name: str) -> None:
    (method, target, body, token, *rest), status = REFUSED[name]
    async with serving() as clients:
        if token == "":
            token = clients.world.token("alice")
        content = {"Content_Type": rest[0] if rest else SDP}
        refused = await clients.ask(method, target, body, token, **content)  # type: ignore[arg-type]
        assert refused.status == status
        said = json.loads(refused.body)
        assert said["error"] == said["detail"]
        assert said["error"]
        assert ("www-authenticate" in refused.headers) is (status == 401)
        assert not len(clients.world.rooms)


@pytest.mark.parametrize(
    ("target", "offer", "grants"),
    [
        (PUBLISH, OFFER, {"can_publish": False}),
        (PUBLISH, OFFER, {"can_publish_sources": ("microphone",)}),
        (PUBLISH, OFFER, {"room_join": False}),
        (WATCH, VIEW, {"can_subscribe": False}),
    ],
)
async def test_grants_decide(target: str, offer: str, grants: dict[str, Any]) -> None:
    async with serving() as clients:
        refused = await clients.post(target, offer, **grants)
        assert (refused.status, json.loads(refused.body)["error"]) == (401, "permissions denied")
        assert not len(clients.world.rooms)


async def test_a_server_without_room_says_when_to_come_back() -> None:
    async with serving(RoomSettings(max_rooms=1)) as clients:
        assert (await clients.post()).status == 201
        refused = await clients.post(room="other")
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) > 0
        assert (await clients.post(identity="bob")).status == 201


async def test_a_bad_offer_leaves_the_session_that_it_would_have_replaced() -> None:
    async with serving() as clients:
        begun = await clients.post()
        assert (await clients.post(offer="v=0")).status == 400
        assert begun.headers["location"].endswith(clients.world.participant().sid)
        again = await clients.post()
        assert again.status == 201
        assert len(clients.sessions) == 1, "the newer one has replaced it"
        gone = await clients.ask("DELETE", begun.headers["location"], token=clients.world.token("alice"))
        assert gone.status == 404


async def test_methods_without_a_body_and_those_that_tell_what_may_be_asked() -> None:
    async with serving() as clients:
        begun = await clients.post()
        token = clients.world.token("alice")
        for method in ("GET", "HEAD"):
            assert (await clients.ask(method, PUBLISH)).status == 204
            assert (await clients.ask(method, begun.headers["location"], token=token)).status == 204
            assert (await clients.ask(method, begun.headers["location"])).status == 401
        options = await clients.ask("OPTIONS", f"{WATCH}/")
        assert (options.status, options.headers["accept-post"]) == (200, SDP)
        options = await clients.ask("OPTIONS", begun.headers["location"])
        assert (options.status, options.headers["accept-patch"]) == (200, FRAGMENT)
        refused = await clients.ask("PUT", begun.headers["location"], token=token)
        assert (refused.status, "PATCH" in refused.headers["allow"]) == (405, True)
        nobodys = Request("GET", "/whip/v2", "/whip/v2", {}, Headers(), b"", ("", 0))
        assert await clients.whip.respond(nobodys) is None


async def test_ice_servers_are_told_one_link_each_with_credentials_quoted() -> None:
    async with serving(RoomSettings(ice_servers=(rtc.ICEServer(urls=["stun:s"]), TURN))) as clients:
        links = (await clients.post()).headers["link"].split(", ")
        secret = r'username="u\"x"; credential="c\\y"'
        assert links == [
            '<stun:s>; rel="ice-server"',
            f'<turn:a?transport=udp>; rel="ice-server"; {secret}',
            f'<turns:a>; rel="ice-server"; {secret}',
        ]


async def test_deleting_ends_the_session_once() -> None:
    async with serving() as clients:
        begun = await clients.post()
        participant = clients.world.participant()
        token = clients.world.token("alice")
        ended = await clients.ask("DELETE", begun.headers["location"], token=token, If_Match='"whatever"')
        assert (ended.status, participant.closed, len(clients.sessions)) == (200, True, 0)
        assert (await clients.ask("DELETE", begun.headers["location"], token=token)).status == 404


async def test_whoever_listens_is_told_of_a_session_as_of_any_participant() -> None:
    told = Told()
    async with serving(told=told) as clients:
        begun = await clients.post()
        await clients.ask("DELETE", begun.headers["location"], token=clients.world.token("alice"))
        unpublished = ["track_unpublished"] * 2
        assert told.events == ["room_started", *["track_published"] * 2, *unpublished, "participant_left"]


async def test_only_its_own_token_or_one_for_the_same_participant_may_touch_a_session() -> None:
    async with serving() as clients:
        token = clients.world.token("alice")
        begun = await clients.ask("POST", PUBLISH, OFFER, token, Content_Type=SDP)
        where = begun.headers["location"]
        for other in (clients.world.token("bob"), clients.world.token("alice", room="other")):
            assert (await clients.ask("DELETE", where, token=other)).status == 404
        clients.now += 10_000
        expired = clients.world.token("alice", name="not the same")
        assert (await clients.ask("DELETE", where, token=expired)).status == 401
        assert (await clients.ask("DELETE", where, token=token)).status == 200, "expired, but it opened the session"


async def test_a_token_in_the_query_comes_back_in_the_location() -> None:
    async with serving() as clients:
        begun = await clients.ask(
            "POST", f"{PUBLISH}?access_token={clients.world.token('alice')}", OFFER, Content_Type=SDP
        )
        assert begun.status == 201
        assert (await clients.ask("DELETE", begun.headers["location"])).status == 200


# --- PATCH ------------------------------------------------------------------------------------------------------------

CANDIDATE = "a=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host"


async def test_trickled_candidates_are_added_under_the_present_etag() -> None:
    async with serving() as clients:
        begun = await clients.post()
        ours = fragment(*credentials(OFFER), "m=audio 9 UDP/TLS/RTP/SAVPF 111", "a=mid:0", CANDIDATE)
        peer = clients.world.participant().shape.primary
        before = peer._remote_candidates
        for condition in (
            begun.headers["etag"],
            begun.headers["etag"].strip('"'),
            "*",
            '"*"',
            f'"x", {begun.headers["etag"]}',
        ):
            taken = await clients.patch(begun, ours, If_Match=condition)
            assert (taken.status, taken.body, taken.headers) == (204, "", {})
        assert peer._remote_candidates == before + 5
        assert (await clients.patch(begun, CANDIDATE)).status == 204, "whose it is, the session knows"


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (CANDIDATE, {"If_Match": None}, 428),
        (CANDIDATE, {"If_Match": '"other"'}, 412),
        (CANDIDATE, {"If_Match": 'W/"{etag}"'}, 412),
        (CANDIDATE, {"Content_Type": SDP}, 400),
        ("hello", {}, 400),
        ("a=ice-ufrag:abcd", {}, 400),
        (fragment("abc", "p" * 22), {}, 400),
        (CANDIDATE + "\r\na=x:" + "y" * 70_000, {}, 413),
    ],
)
async def test_patches_that_do_not_fit_change_nothing(body: str, headers: dict[str, str | None], status: int) -> None:
    async with serving() as clients:
        begun = await clients.post()
        token, tag = clients.world.token("alice"), begun.headers["etag"]
        given = {"Content_Type": FRAGMENT, "If_Match": tag, **headers}
        fields = {name: value.replace('"{etag}"', tag) for name, value in given.items() if value is not None}
        refused = await clients.ask("PATCH", begun.headers["location"], body, token, **fields)
        assert refused.status == status
        assert not clients.world.participant().closed
        assert (await clients.patch(begun, CANDIDATE)).status == 204


async def test_other_credentials_restart_ice_and_what_comes_late_is_known_as_such() -> None:
    async with serving() as clients:
        begun = await clients.post()
        restarted = await clients.patch(begun, fragment("newufrag", "p" * 24, CANDIDATE), If_Match="*")
        assert (restarted.status, restarted.headers["content-type"]) == (200, FRAGMENT)
        peer = clients.world.participant().shape.primary
        local = peer.negotiation.local
        assert restarted.headers["etag"] == f'"{local.ufrag}"' != begun.headers["etag"]
        assert f"a=ice-ufrag:{local.ufrag}\r\na=ice-pwd:{local.pwd}\r\n" in restarted.body
        assert all(f"a={candidate}\r\n" in restarted.body for candidate in local.candidates)
        assert "a=group:BUNDLE 0 1 2\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:0" in restarted.body
        assert peer._remote_candidates == 1, "of the new session"
        late = fragment(*credentials(OFFER), CANDIDATE)
        assert (await clients.patch(begun, late)).status == 412
        again = {"Content_Type": FRAGMENT, "If_Match": "*"}
        token = clients.world.token("alice")
        assert (await clients.ask("PATCH", begun.headers["location"], late, token, **again)).status == 412


async def test_too_many_patches_are_refused_for_a_while(autojump_clock: trio.testing.MockClock) -> None:
    async with serving() as clients:
        begun = await clients.post()
        answers = [(await clients.patch(begun, CANDIDATE)).status for _ in range(BURST + 1)]
        assert answers[: BURST - 1] == [204] * (BURST - 1)
        assert answers[-1] == 429
        await trio.sleep(1)
        assert (await clients.patch(begun, CANDIDATE)).status == 204
        for number in range(4):
            last = await clients.patch(begun, fragment(f"ufrag{number}", "p" * 24), If_Match="*")
        assert last.status == 429, "restarts count for more"


# --- time, cancelling ------------------------------------------------------------------------------------------------


async def test_a_session_whose_transport_never_comes_up_is_over_after_twenty_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving() as clients:
        await clients.post()
        participant = clients.world.participant()
        await trio.sleep(19.9)
        assert not participant.closed
        await trio.sleep(0.2)
        assert participant.closed
        assert not len(clients.sessions)


async def test_a_request_that_is_cancelled_while_its_room_is_made_has_admitted_nobody() -> None:
    async with serving() as clients:
        with trio.CancelScope() as scope:
            scope.cancel()
            await clients.post()
        assert scope.cancelled_caught
        assert not [one for room in clients.world.rooms for one in room.participants]
        assert not len(clients.sessions)


async def test_a_page_of_another_origin_may_do_all_this() -> None:
    async with serving() as clients:
        listeners = await open_listeners(["127.0.0.1"], 0)

        async def respond(wanted: Request) -> Response:
            answer = await clients.whip.respond(wanted)
            assert answer is not None
            return answer

        await clients.world.nursery.start(serve_http, listeners, respond)
        port = listeners[0].socket.getsockname()[1]
        asked = {"Origin": "https://a", "Access_Control_Request_Method": "PATCH"}
        preflight = await request(port, "OPTIONS", PUBLISH, **asked, Access_Control_Request_Headers="authorization")
        assert preflight.status == 204
        assert "PATCH" in preflight.headers["access-control-allow-methods"]
        assert preflight.headers["access-control-allow-headers"] == "authorization"
        token = clients.world.token("alice")
        begun = await request(
            port, "POST", PUBLISH, OFFER, Content_Type=SDP, Authorization=f"Bearer {token}", Origin="https://a"
        )
        assert begun.status == 201
        assert begun.headers["access-control-allow-origin"] == "*"
        assert begun.headers["access-control-expose-headers"] == "*"


async def test_the_limits_of_a_room_hold_for_viewers_too() -> None:
    async with serving(RoomSettings(limits=Limits(subscribed_video=1))) as clients:
        await clients.post()
        await clients.post(WATCH, watching(OFFER), "bob")
        sent = [one for one in clients.world.participant("bob").subscriptions if one.down is not None]
        assert sorted(one.sender.kind for one in sent if one.sender) == ["audio", "video"]
