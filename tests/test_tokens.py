from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from livekit import api
from livekit.protocol.models import ParticipantInfo, TrackSource
from livekit.protocol.room import RoomConfiguration

from fuzz.checks.tokens import KEYS, check_claims, check_token
from triosfu.tokens import (
    LEEWAY,
    AgentGrant,
    Claims,
    SipGrant,
    TokenError,
    VideoGrant,
    check_join,
    create_token,
    refresh_token,
    sign,
    token_of,
    verify,
)

KEY, SECRET = "devkey", "a-secret-of-64-characters-is-what-HS512-asks-for-at-the-very-least"
PAIRS = {KEY: SECRET}
NOW = 1_700_000_000.0


def signed(body: object, *, secret: str = SECRET, algorithm: str = "HS256") -> str:
    """A token with any body, made without our code."""
    return jwt.PyJWS().encode(json.dumps(body).encode(), secret, algorithm=algorithm)


def body(**claims: object) -> dict[str, Any]:
    return {"iss": KEY, "sub": "alice", "exp": NOW + 60, **claims}


def refused(token: str, now: float = NOW) -> tuple[int, str]:
    with pytest.raises(TokenError) as caught:
        verify(token, PAIRS, now=now)
    return caught.value.status, caught.value.text


def test_a_token_says_what_its_maker_said() -> None:
    video = VideoGrant(room_join=True, room="demo", can_publish=False, can_publish_sources=("camera",), hidden=True)
    token = create_token(
        KEY,
        SECRET,
        now=NOW,
        identity="alice",
        ttl=90,
        video=video,
        name="Alice",
        kind="agent",
        metadata="{}",
        attributes={"colour": "blue"},
        room_config=RoomConfiguration(empty_timeout=7),
        room_preset="small",
        sip=SipGrant(call=True),
        agent=AgentGrant(simulation_admin=True),
    )
    claims = verify(token, PAIRS, now=NOW)
    assert claims == Claims(
        identity="alice",
        name="Alice",
        kind="agent",
        metadata="{}",
        attributes={"colour": "blue"},
        room_config=RoomConfiguration(empty_timeout=7),
        room_preset="small",
        video=video,
        sip=SipGrant(call=True),
        agent=AgentGrant(simulation_admin=True),
        issuer=KEY,
        expires_at=NOW + 90,
        not_before=NOW,
    )
    assert claims.participant_kind == ParticipantInfo.AGENT


def test_livekits_own_sdk_makes_tokens_that_we_read() -> None:
    made = (
        api.AccessToken(KEY, SECRET)
        .with_identity("bob")
        .with_name("Bob")
        .with_kind("egress")
        .with_ttl(timedelta(hours=1))
        .with_attributes({"a": "b"})
        .with_room_config(RoomConfiguration(max_participants=3))
        .with_grants(api.VideoGrants(room_join=True, room="demo", can_publish_data=False, agent=True))
        .to_jwt()
    )
    claims = verify(made, PAIRS, now=jwt.decode(made, options={"verify_signature": False})["nbf"])
    assert (claims.identity, claims.name, claims.kind, claims.attributes) == ("bob", "Bob", "egress", {"a": "b"})
    assert claims.room_config == RoomConfiguration(max_participants=3)
    assert claims.video is not None
    assert claims.video.room == "demo"
    assert not claims.video.allows_publish_data
    assert claims.is_dependent


def test_livekits_own_sdk_reads_our_tokens() -> None:
    token = create_token(KEY, SECRET, identity="alice", room="demo", attributes={"a": "b"}, metadata="m")
    claims = api.TokenVerifier(KEY, SECRET).verify(token)
    assert (claims.identity, claims.metadata, claims.attributes) == ("alice", "m", {"a": "b"})
    assert claims.video is not None
    assert (claims.video.room_join, claims.video.room) == (True, "demo")


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ("", "invalid authorization token"),
        ("garbage", "invalid authorization token"),
        ("a.b.c", "invalid authorization token"),
        ("\ud800.é.c", "invalid authorization token"),
        (signed(body(), algorithm="HS512"), "invalid authorization token"),
        (signed([]), "invalid authorization token"),
        (signed(body(iss="stranger")), "invalid API key"),
        (signed(body(iss=None)), "invalid API key"),
        (signed(body(iss=["devkey"])), "invalid API key"),
        (signed(body(), secret=SECRET[::-1]), "signature does not match"),
        (signed({"iss": KEY, "sub": "alice"}), "token never expires (exp)"),
        (signed(body(exp="soon")), "exp is not a time"),
        (signed(body(exp=True)), "exp is not a time"),
        (signed(body(exp=float("nan"))), "exp is not a time"),
        (signed(body(exp=10**400)), "exp is not a time"),
        (signed(body(exp=NOW - LEEWAY - 1)), "token is expired (exp)"),
        (signed(body(nbf=NOW + LEEWAY + 1)), "token is not valid yet (nbf)"),
        (signed(body(iat=NOW + LEEWAY + 1)), "token was issued in the future (iat)"),
        (signed(body(video="all")), "video is not an object"),
        (signed(body(video={"roomJoin": "yes"})), "video.roomJoin is not true or false"),
        (signed(body(video={"canPublishSources": "camera"})), "video.canPublishSources is not a list"),
        (signed(body(sub=7)), "sub is not a string"),
        (signed(body(attributes={"a": 1})), "attributes is not a string"),
        (signed(body(attributes=[])), "attributes is not an object"),
        (signed(body(roomConfig={"emptyTimeout": "x"})), "roomConfig is not a room configuration"),
        (signed(body(roomConfig=1)), "roomConfig is not an object"),
    ],
)
def test_a_bad_token_is_refused_with_livekits_words(token: str, text: str) -> None:
    status, said = refused(token)
    assert status == 401
    plain = {"invalid authorization token", "invalid API key"}
    assert said == (text if text in plain else f"invalid authorization token: {text}")


def test_an_unsigned_token_is_refused() -> None:
    unsigned = jwt.PyJWS().encode(json.dumps(body()).encode(), "", algorithm="none")
    assert refused(unsigned) == (401, "invalid authorization token")


def test_clocks_may_differ_by_a_minute() -> None:
    token = signed(body(exp=NOW - LEEWAY, nbf=NOW + LEEWAY, iat=NOW + LEEWAY))
    assert verify(token, PAIRS, now=NOW).expires_at == NOW - LEEWAY


def test_the_short_secret_of_development_mode_works_without_a_warning() -> None:
    token = create_token("devkey", "secret", now=NOW, identity="alice", room="demo")
    assert verify(token, {"devkey": "secret"}, now=NOW).identity == "alice"


def test_an_enormous_token_is_not_even_decoded() -> None:
    assert refused("a" * ((1 << 20) + 1)) == (401, "invalid authorization token")


def test_the_subject_is_the_identity_and_jti_stands_in_for_it() -> None:
    assert verify(signed(body(identity="mallory")), PAIRS, now=NOW).identity == "alice"
    assert verify(signed(body(sub="", jti="bob")), PAIRS, now=NOW).identity == "bob"


@pytest.mark.parametrize(
    "config", [{"empty_timeout": 7, "max_participants": 2}, {"emptyTimeout": 7, "maxParticipants": 2}]
)
def test_room_configuration_is_read_in_both_spellings(config: dict[str, int]) -> None:
    claims = verify(signed(body(roomConfig={**config, "unknown": 1})), PAIRS, now=NOW)
    assert claims.room_config == RoomConfiguration(empty_timeout=7, max_participants=2)


def test_unknown_kinds_are_ordinary_participants() -> None:
    claims = verify(signed(body(kind="Starship", kindDetails=["cloud_agent", "unheard_of"])), PAIRS, now=NOW)
    assert claims.participant_kind == ParticipantInfo.STANDARD
    assert claims.participant_kind_details == [ParticipantInfo.CLOUD_AGENT]


def test_half_a_surrogate_pair_becomes_text_that_protobuf_can_hold() -> None:
    token = jwt.PyJWS().encode(
        f'{{"iss":"{KEY}","sub":"\\ud800","exp":{NOW + 60},"attributes":{{"\\udfff":"\\ud800"}}}}'.encode(), SECRET
    )
    claims = verify(token, PAIRS, now=NOW)
    assert ParticipantInfo(identity=claims.identity, attributes=claims.attributes).SerializeToString()


def test_what_is_not_said_means_what_livekit_means() -> None:
    plain = VideoGrant()
    assert plain.allows_publish
    assert plain.allows_subscribe
    assert plain.allows_publish_data
    assert not plain.allows_update_own_metadata
    assert plain.allows_source(TrackSource.CAMERA)
    mute = VideoGrant(can_publish=False)
    assert not mute.allows_publish_data  # follows can_publish
    assert not mute.allows_source(TrackSource.CAMERA)
    assert VideoGrant(can_publish=False, can_publish_data=True).allows_publish_data
    picky = VideoGrant(can_publish_sources=("microphone",))
    assert picky.allows_source(TrackSource.MICROPHONE)
    assert not picky.allows_source(TrackSource.CAMERA)
    assert not VideoGrant(can_publish_sources=("sculpture",)).allows_source(TrackSource.CAMERA)
    assert list(VideoGrant(can_publish_sources=("sculpture",)).permission().can_publish_sources) == [0]


def test_a_changed_permission_is_in_the_refreshed_token() -> None:
    claims = verify(create_token(KEY, SECRET, now=NOW, identity="alice", room="demo", ttl=3600), PAIRS, now=NOW)
    assert claims.video is not None
    permission = claims.video.permission()
    permission.can_publish = False
    permission.can_publish_sources.append(TrackSource.MICROPHONE)
    changed = Claims(identity="alice", video=claims.video.with_permission(permission), expires_at=claims.expires_at)
    again = verify(refresh_token(changed, KEY, SECRET, now=NOW + 60), PAIRS, now=NOW + 60)
    assert again.video is not None
    assert again.video.permission() == permission
    assert again.video.room_join
    assert again.expires_at == NOW + 3600


def test_a_refreshed_token_lives_ten_minutes_at_least() -> None:
    claims = Claims(identity="alice", expires_at=NOW + 5)
    assert verify(refresh_token(claims, KEY, SECRET, now=NOW), PAIRS, now=NOW).expires_at == NOW + 600


@pytest.mark.parametrize(
    ("claims", "status", "text"),
    [
        (None, 401, "no permissions to access the room"),
        (Claims(identity="a"), 401, "no permissions to access the room"),
        (Claims(identity="a", video=VideoGrant(room="r")), 401, "permissions denied"),
        (Claims(video=VideoGrant(room_join=True, room="r")), 400, "identity cannot be empty"),
        (
            Claims(identity="é" * 129, video=VideoGrant(room_join=True, room="r")),
            400,
            "participant identity length exceeds limits: max length 256",
        ),
        (Claims(identity="a", video=VideoGrant(room_join=True)), 400, "no room name"),
        (
            Claims(identity="a", video=VideoGrant(room_join=True, room="r" * 257)),
            400,
            "room name length exceeds limits: max length 256",
        ),
    ],
)
def test_who_may_not_join_is_told_why(claims: Claims | None, status: int, text: str) -> None:
    with pytest.raises(TokenError) as caught:
        check_join(claims)
    assert (caught.value.status, caught.value.text) == (status, text)


def test_who_may_join_joins() -> None:
    video = VideoGrant(room_join=True, room="r" * 256)
    assert check_join(Claims(identity="a" * 256, video=video)) is video


def test_the_header_wins_over_the_query() -> None:
    assert token_of("Bearer x", "y") == "x"
    assert token_of(None, "y") == "y"
    assert token_of(None, None) is None
    assert token_of(None, "") is None
    for header in ("bearer x", "x", "", "Basic x"):
        with pytest.raises(TokenError) as caught:
            token_of(header, "y")
        assert (caught.value.status, caught.value.text) == (
            401,
            "invalid authorization header. Must start with Bearer ",
        )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
CLAIM_NAMES = [
    "sub", "jti", "name", "kind", "kindDetails", "metadata", "attributes", "video", "sip", "agent", "roomConfig",
    "roomPreset", "sha256", "nbf", "iat", "inference", "observability", "identity",
]  # fmt: skip


@given(st.dictionaries(st.sampled_from(CLAIM_NAMES), JSON))
def test_any_signed_claims_are_read_or_refused(claims: dict[str, Any]) -> None:
    token = signed({"iss": "devkey", "exp": 1060, **claims}, secret=KEYS["devkey"])
    check_token(token.encode())


@given(st.binary(max_size=200) | st.from_regex(rb"[\w-]{0,30}\.[\w-]{0,30}\.[\w-]{0,30}", fullmatch=True))
def test_any_bytes_are_refused_as_a_token(data: bytes) -> None:
    check_token(data)


@given(
    st.builds(
        Claims,
        identity=st.text(),
        name=st.text(),
        metadata=st.text(),
        attributes=st.dictionaries(st.text(), st.text()),
        video=st.none() | st.builds(VideoGrant, room=st.text(), can_publish_sources=st.just(("camera",))),
    )
)
def test_signing_and_verifying_are_inverse(claims: Claims) -> None:
    check_claims(verify(sign(claims, "devkey", KEYS["devkey"], now=1000.0, ttl=60.0), KEYS, now=1000.0))


@given(st.integers(0), st.integers(0, 7))
def test_one_flipped_bit_is_found(position: int, bit: int) -> None:
    token = bytearray(create_token(KEY, SECRET, now=NOW, identity="alice", room="demo").encode())
    token[position % len(token)] ^= 1 << bit
    with pytest.raises(TokenError):
        verify(token.decode("latin-1"), PAIRS, now=NOW)
