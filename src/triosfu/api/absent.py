"""The services whose workers are not there: Egress, Ingress and SIP answer as LiveKit's do then (section 8.5)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from livekit.protocol import egress, ingress, sip

from triosfu.api.errors import TwirpError
from triosfu.api.grants import require, require_admin, video
from triosfu.api.twirp import Method, Service
from triosfu.tokens import SipGrant

if TYPE_CHECKING:
    from collections.abc import Callable

    from triosfu.tokens import Claims

NO_WORKER = "no response from servers"


def absent_services() -> list[Service]:
    """These services: who may call them learns that nobody is there to do it."""
    return [
        _service(egress.DESCRIPTOR.services_by_name["Egress"], _egress),
        _service(ingress.DESCRIPTOR.services_by_name["Ingress"], _ingress),
        _service(sip.DESCRIPTOR.services_by_name["SIP"], _sip),
    ]


def _service(descriptor: Any, refuse: Callable[[str, Claims, Any], NoReturn]) -> Service:  # noqa: ANN401  protobuf's
    return Service(descriptor, {name: Method(call=partial(refuse, name)) for name in descriptor.methods_by_name})


def _egress(name: str, claims: Claims, request: object) -> NoReturn:
    del request
    require(allowed=video(claims).room_record)
    if name.startswith("Start"):
        raise TwirpError("unavailable", NO_WORKER)
    raise TwirpError("internal", "egress not connected (redis required)")


def _ingress(name: str, claims: Claims, request: object) -> NoReturn:
    del name, request
    require(allowed=video(claims).ingress_admin)
    raise TwirpError("internal", "ingress not connected (redis required)")


def _sip(name: str, claims: Claims, request: Any) -> NoReturn:  # noqa: ANN401  one of many messages
    grant = claims.sip or SipGrant()
    if name == "TransferSIPParticipant":
        require_admin(claims, request.room_name)
    require(allowed=grant.call if name.endswith("SIPParticipant") else grant.admin)
    raise TwirpError("internal", "sip not connected (redis required)")
