"""Data channels on the virtual network."""

from __future__ import annotations

from random import Random

from tests.support.network import PLAIN, Network
from triosfu.datachannel.core import DataChannels
from triosfu.sctp.core import Association


def channels(seed: int, *, client: bool | None, limit: int = 256) -> DataChannels:
    association = Association(now=0.0, rng=Random(seed), settings=PLAIN)
    return DataChannels(association, dtls_client=client, max_channels_by_peer=limit)


def connected() -> tuple[Network, DataChannels, DataChannels]:
    """Two ends that are up: the first is the DTLS client."""
    left, right = channels(1, client=True), channels(2, client=False)
    network = Network(left, right)
    left.connect(0.0)
    right.connect(0.0)
    network.run(until=1.0)
    for path in network.paths:
        path.sent.clear()
    return network, left, right
