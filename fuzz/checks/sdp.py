"""Session descriptions from strangers: the parser is total, and a negotiation survives any of them."""

from __future__ import annotations

from random import Random

from triosfu.errors import MalformedPacket, PeerError
from triosfu.sdp.negotiation import LocalTransport, MediaPolicy, Negotiation, Sender
from triosfu.sdp.wire import SessionDescription


def check_sdp(data: bytes) -> None:
    """What parses is written so that it parses to the same value."""
    try:
        description = SessionDescription.parse(data.decode(errors="replace"))
    except MalformedPacket:
        return
    text = description.serialize()
    assert SessionDescription.parse(text) == description
    assert SessionDescription.parse(text).serialize() == text


def check_offer(data: bytes) -> None:
    """An offer is refused as a whole, or gets an answer with its sections, in its numbers."""
    text = data.decode(errors="replace")
    for single in (False, True):
        negotiation = _negotiation(single=single)
        if single:
            for kind, mime in (("audio", "audio/opus"), ("video", "video/VP8"), ("video", "video/H264")):
                negotiation.add_sender(_sender(kind, mime))
        try:
            negotiation.accept_offer(text)
        except (MalformedPacket, PeerError):
            assert negotiation.sections == []
            continue
        offer = SessionDescription.parse(text)
        answer = SessionDescription.parse(negotiation.create_answer())
        answered_rightly(offer, answer)
        for section in negotiation.sections:
            # One that carries a sender is being received in, and the other way round.
            assert section.outgoing is None or (section.incoming is None and section.remote_direction == "recvonly")
        again = negotiation.accept_offer(text)
        assert (again.added, again.ended, again.ice_restart) == ([], [], False)


def check_answer(data: bytes) -> None:
    """An answer is refused as a whole, or leaves every section with codecs that were offered, or refused."""
    negotiation = _negotiation(single=False)
    senders = [_sender("audio", "audio/opus"), _sender("video", "video/VP8")]
    negotiation.enable_data()
    for sender in senders:
        negotiation.add_sender(sender)
    negotiation.create_offer()
    try:
        negotiation.accept_answer(data.decode(errors="replace"))
    except (MalformedPacket, PeerError):
        assert negotiation.pending_offer
        return
    assert not negotiation.pending_offer
    assert all(bool(sender.negotiated) is not sender.refused for sender in senders)
    negotiation.create_offer()


def answered_rightly(offer: SessionDescription, answer: SessionDescription) -> None:
    assert [(media.mid, media.kind) for media in answer.media] == [(media.mid, media.kind) for media in offer.media]
    for asked, answered in zip(offer.media, answer.media, strict=True):
        if answered.kind == "application" or answered.is_rejected:
            continue
        offered = {(codec.mime, codec.payload_type, codec.rtx_payload_type) for codec in asked.codecs}
        assert {(codec.mime, codec.payload_type, codec.rtx_payload_type) for codec in answered.codecs} <= offered
        numbers = {(extension.id, extension.uri) for extension in asked.extensions}
        assert {(extension.id, extension.uri) for extension in answered.extensions} <= numbers
        assert not (answered.direction.sends and not asked.direction.receives)
        assert not (answered.direction.receives and not asked.direction.sends)
        assert answered.codecs
        assert {rid.id for rid in answered.rids} <= {rid.id for rid in asked.rids}
        assert bool(answered.msids) == answered.direction.sends


def _negotiation(*, single: bool) -> Negotiation:
    local = LocalTransport(ufrag="ufragufrag", pwd="p" * 24, fingerprint="AB:CD")
    return Negotiation(local=local, policy=MediaPolicy(), single=single, rng=Random(1))


def _sender(kind: str, mime: str) -> Sender:
    return Sender(kind=kind, track_id=f"TR_{mime[6:]}", stream_id="PA_a|TR_b", ssrc=1, rtx_ssrc=2, codecs=[mime])
