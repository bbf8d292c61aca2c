"""The STUN messages of a connectivity check (RFC 8445, section 7): built here, understood in `core`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from triosfu.stun.wire import (
    TRANSACTION_SIZE,
    U32,
    U64,
    Attribute,
    Kind,
    Message,
    StunError,
    Template,
    pack_xor_address,
)

if TYPE_CHECKING:
    from triosfu.ice.candidate import Address
    from triosfu.ice.credentials import Credentials

UNDERSTOOD: Final = frozenset(
    {
        Attribute.USERNAME,
        Attribute.PRIORITY,
        Attribute.USE_CANDIDATE,
        Attribute.XOR_MAPPED_ADDRESS,
        Attribute.MAPPED_ADDRESS,
        Attribute.MESSAGE_INTEGRITY_SHA256,  # harmless beside the MESSAGE-INTEGRITY that we check
    }
)

UNKNOWN_ATTRIBUTE: Final = StunError(420, "Unknown Attribute")
ROLE_CONFLICT: Final = StunError(487, "Role Conflict")


def request(
    transaction: bytes,
    *,
    local: Credentials,
    remote: Credentials,
    priority: int,
    controlling: bool,
    tie_breaker: int,
    nominating: bool,
) -> bytes:
    """A check: an authenticated binding request that tells our role and asks for, or demands, this pair."""
    return requests(
        local=local,
        remote=remote,
        priority=priority,
        controlling=controlling,
        tie_breaker=tie_breaker,
        nominating=nominating,
    ).message(transaction)


def requests(
    *, local: Credentials, remote: Credentials, priority: int, controlling: bool, tie_breaker: int, nominating: bool
) -> Template:
    """The checks that say this."""
    role = Attribute.ICE_CONTROLLING if controlling else Attribute.ICE_CONTROLLED
    attributes = [
        (Attribute.USERNAME, f"{remote.ufrag}:{local.ufrag}".encode()),
        (Attribute.PRIORITY, U32.pack(priority)),
        (role, U64.pack(tie_breaker)),
    ]
    if nominating:
        attributes.append((Attribute.USE_CANDIDATE, b""))
    return Template(Kind.REQUEST, tuple(attributes), remote.key)


def ufrag_of(request: Message) -> str | None:
    """The ufrag whose owner is asked; MalformedPacket if the USERNAME is no text."""
    username = request.text(Attribute.USERNAME) or ""
    ufrag, colon, _ = username.partition(":")
    return ufrag if colon else None


def success(to: Message, source: Address, key: bytes) -> bytes:
    """The answer to a good check: tells the peer from where we saw it come."""
    mapped = (Attribute.XOR_MAPPED_ADDRESS, pack_xor_address(source, to.transaction))
    return Message(Kind.SUCCESS, to.transaction, (mapped,)).serialize(key=key)


def successes(source: Address, key: bytes) -> Template | None:
    """The answers to good checks from one address; None for IPv6, where the address is masked by the transaction."""
    if ":" in source[0]:
        return None
    mapped = (Attribute.XOR_MAPPED_ADDRESS, pack_xor_address(source, bytes(TRANSACTION_SIZE)))
    return Template(Kind.SUCCESS, (mapped,), key)


def refusal(to: Message, error: StunError, key: bytes, unknown: tuple[int, ...] = ()) -> bytes:
    """The answer to an authenticated check that cannot be served. Others get no answer at all."""
    attributes: list[tuple[int, bytes]] = [(Attribute.ERROR_CODE, error.serialize())]
    if unknown:
        # Two bytes for each four of the question: nobody is amplified.
        attributes.append((Attribute.UNKNOWN_ATTRIBUTES, b"".join(kind.to_bytes(2) for kind in unknown)))
    return Message(Kind.ERROR, to.transaction, tuple(attributes)).serialize(key=key)
