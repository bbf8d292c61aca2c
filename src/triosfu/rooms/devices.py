"""What devices are known to do badly, by what their clients say of themselves (protocol reference, section 3.3).

The same devices and codecs that the reference server knows of.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from livekit.protocol import models

if TYPE_CHECKING:
    from collections.abc import Iterable

    from triosfu.sdp.policy import MediaPolicy

AV1, VP9, H264 = "video/AV1", "video/VP9", "video/H264"
FIREFOX, SAFARI = frozenset({"firefox", "firefox mobile"}), "safari"
UNORDERED = frozenset({"linux", "android"})  # where Firefox encodes with what it likes best in an answer
WITHOUT_VP9_ENCODER = (18, 3)  # Safari, after this version


def client_configuration(client: models.ClientInfo) -> models.ClientConfiguration | None:
    """Return what `client` is to leave alone; None for most."""
    browser, system = client.browser.lower(), client.os.lower()
    neither: list[str] = []
    published: list[str] = []
    if browser == SAFARI:
        neither.append(AV1)
        if _version(client.browser_version) > WITHOUT_VP9_ENCODER:
            published.append(VP9)
    elif (browser in FIREFOX and system in UNORDERED) or (
        client.device_model.lower() == "xiaomi 2201117ti" and system == "android"
    ):
        published.append(H264)
    if not neither and not published:
        return None
    disabled = models.DisabledCodecs(
        codecs=[models.Codec(mime=mime) for mime in neither], publish=[models.Codec(mime=mime) for mime in published]
    )
    return models.ClientConfiguration(disabled_codecs=disabled)


def offers_late(client: models.ClientInfo) -> bool:
    """Whether `client` reads what it is sent before it has applied the offer that came with its request.

    LiveKit's Go SDK (2.19) does, then refuses an answer that is fast, and never connects. It gathers candidates once
    the offer is applied, so the first one says that it is.
    """
    return client.sdk == models.ClientInfo.SDK.GO


def may_publish(configuration: models.ClientConfiguration | None, enabled: Iterable[str]) -> tuple[str, ...]:
    """Return those of the `enabled` codecs that a client so configured is to send."""
    if configuration is None:
        return tuple(enabled)
    disabled = configuration.disabled_codecs
    without = {codec.mime.lower() for codec in (*disabled.codecs, *disabled.publish)}
    return tuple(mime for mime in enabled if mime.lower() not in without)


def may_receive(configuration: models.ClientConfiguration | None, enabled: Iterable[str]) -> tuple[str, ...]:
    """Return those of the `enabled` codecs that a client so configured is to be sent."""
    if configuration is None:
        return tuple(enabled)
    without = {codec.mime.lower() for codec in configuration.disabled_codecs.codecs}
    return tuple(mime for mime in enabled if mime.lower() not in without)


def negotiable(
    client: models.ClientInfo, configuration: models.ClientConfiguration | None, usual: MediaPolicy
) -> MediaPolicy:
    """Return what descriptions agree on with such a client: no codec that it does badly, whatever it offers."""
    browser, system = client.browser.lower(), client.os.lower()
    if configuration is None and browser != SAFARI and browser not in FIREFOX:
        return usual
    return replace(
        usual,
        receive=may_publish(configuration, usual.receive),
        send=may_receive(configuration, usual.send),
        only_preferred=usual.only_preferred or (browser in FIREFOX and system in UNORDERED),
        reuse_sections=usual.reuse_sections and browser != SAFARI,
    )


def _version(text: str) -> tuple[int, ...]:
    """`18.3.1` as numbers, as far as it is any."""
    numbers: list[int] = []
    for part in text[:32].split("."):
        if not (part.isascii() and part.isdigit()):
            break
        numbers.append(int(part))
    return tuple(numbers)
