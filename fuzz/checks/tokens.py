"""Checks of what strangers send as access tokens."""

from __future__ import annotations

from triosfu.tokens import Claims, TokenError, check_join, sign, verify

KEYS = {"devkey": "0123456789abcdef" * 2}


def check_token(data: bytes) -> None:
    """Any bytes, as a token, are refused with a status; and what is accepted can be signed again and says the same."""
    token = data.decode("latin-1")
    try:
        claims = verify(token, KEYS, now=1000.0)
    except TokenError as error:
        assert error.status in {400, 401}  # noqa: PT017  the other outcome is acceptance
        return
    check_claims(claims)


def check_claims(claims: Claims) -> None:
    """Claims that were accepted survive a refresh, and can be judged."""
    again = verify(sign(claims, "devkey", KEYS["devkey"], now=1000.0, ttl=60.0), KEYS, now=1000.0)
    assert again.video == claims.video
    assert (again.identity, again.name, again.metadata) == (claims.identity, claims.name, claims.metadata)
    assert again.attributes == claims.attributes
    if claims.video is not None:
        claims.video.permission().SerializeToString()
    try:
        check_join(claims)
    except TokenError as error:
        assert error.status in {400, 401}  # noqa: PT017  the other outcome is acceptance
