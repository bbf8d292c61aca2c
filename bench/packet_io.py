"""What one datagram costs on its way in and out: microseconds, best of a few rounds, one number per line.

python -m bench.packet_io
"""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from typing import TYPE_CHECKING

from triosfu.dtls import Certificate, DtlsConnection, Fingerprint, Role
from triosfu.net.batch import BATCH, SLOT, BatchedInbox, Inbox, PlainInbox, ffi
from triosfu.net.egress import Egress
from triosfu.srtp import Inbound, Outbound, SrtpKeys, SrtpProfile

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS, PACKETS, SIZE = 7, 6400, 1200
HEADER = struct.Struct("!BBHII")


def best(run: Callable[[int], None], packets: int = PACKETS) -> float:
    """Microseconds of CPU per packet; `run` is given how many packets went before."""
    costs = []
    for number in range(ROUNDS):
        started = time.process_time()
        run(number * packets)
        costs.append(time.process_time() - started)
    return min(costs) / packets * 1e6


def udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    return sock


def bench_send(*, batched: bool) -> float:
    """Reserve, write a header, commit, and a flush for every 64 packets; nobody reads."""
    with udp() as ours, udp() as peer:
        egress = Egress()
        egress.open_outlet(ours, ours.getsockname(), batched=batched)
        destination = egress.destination(peer.getsockname())

        def run(_: int) -> None:
            for _ in range(PACKETS // BATCH):
                for index in range(BATCH):
                    offset = egress.reserve()
                    HEADER.pack_into(egress.arena, offset, 0x80, 96, index, 0, 1)
                    egress.commit(offset, SIZE, destination)
                egress.flush()

        return best(run)


def bench_forward(profile: SrtpProfile) -> float:
    """The same with protection in place: the whole way out of one forwarded packet."""
    with udp() as ours, udp() as peer:
        egress = Egress()
        egress.open_outlet(ours, ours.getsockname(), batched=True)
        destination = egress.destination(peer.getsockname())
        outbound = Outbound(keys(profile))

        def run(before: int) -> None:
            for batch in range(PACKETS // BATCH):
                for index in range(BATCH):
                    sequence = (before + batch * BATCH + index) & 0xFFFF
                    offset = egress.reserve()
                    HEADER.pack_into(egress.arena, offset, 0x80, 96, sequence, 0, 1)
                    length = outbound.protect_in_place(egress.pointers[offset // SLOT], SIZE)
                    egress.commit(offset, length, destination)
                egress.flush()

        return best(run)


def bench_receive(*, batched: bool) -> float:
    """Batches of 64 that wait in the socket; the sender's part is left out."""
    with udp() as ours, udp() as peer:
        inbox: Inbox = BatchedInbox(ours) if batched else PlainInbox(ours)
        data = bytes(SIZE)
        costs = []
        for _ in range(ROUNDS):
            spent = 0.0
            for _ in range(PACKETS // BATCH):
                for _ in range(BATCH):
                    peer.sendto(data, ours.getsockname())
                started = time.process_time()
                assert inbox.receive() == BATCH
                spent += time.process_time() - started
            costs.append(spent)
        return min(costs) / PACKETS * 1e6


def keys(profile: SrtpProfile) -> SrtpKeys:
    return SrtpKeys.from_exporter(profile, bytes(range(profile.export_length)), client=True)


def bench_protect(profile: SrtpProfile, *, copying: bool = False) -> float:
    outbound = Outbound(keys(profile), copying=copying)
    memory = ffi.new("char[]", 2048)
    view = memoryview(ffi.buffer(memory)).cast("B")

    def run(before: int) -> None:
        for index in range(PACKETS):
            HEADER.pack_into(view, 0, 0x80, 96, (before + index) & 0xFFFF, 0, 1)
            outbound.protect_in_place(memory, SIZE)

    return best(run)


def bench_unprotect(profile: SrtpProfile) -> float:
    outbound, inbound = Outbound(keys(profile)), Inbound(keys(profile).swapped())
    memory = ffi.new("char[]", 2048)
    costs = []
    for number in range(ROUNDS):
        packets = [
            outbound.protect(HEADER.pack(0x80, 96, (number * PACKETS + index) & 0xFFFF, 0, 1) + bytes(SIZE - 12))
            for index in range(PACKETS)
        ]
        started = time.process_time()
        for packet in packets:
            ffi.memmove(memory, packet, len(packet))
            inbound.unprotect_in_place(memory, len(packet))
        costs.append(time.process_time() - started)
    return min(costs) / PACKETS * 1e6


def dtls_pair() -> tuple[DtlsConnection, DtlsConnection]:
    certificate = Certificate.generate()
    known = (Fingerprint("sha-256", certificate.fingerprint),)
    client, server = (
        DtlsConnection(certificate=certificate, role=role, remote_fingerprints=known, now=0.0) for role in Role
    )
    client.start(0.0)
    server.start(0.0)
    exchange(client, server)
    return client, server


def exchange(client: DtlsConnection, server: DtlsConnection) -> None:
    while True:
        towards, back = client.datagrams_to_send(), server.datagrams_to_send()
        if not towards and not back:
            return
        for datagram in towards:
            server.receive_datagram(datagram, 0.0)
        for datagram in back:
            client.receive_datagram(datagram, 0.0)


def bench_dtls_data() -> float:
    client, server = dtls_pair()
    data = bytes(1150)

    def run(_: int) -> None:
        for _ in range(PACKETS):
            client.send(data)
            for datagram in client.datagrams_to_send():
                server.receive_datagram(datagram, 0.0)
            server.events()

    return best(run)


def bench_dtls_handshake() -> float:
    def run(_: int) -> None:
        for _ in range(20):
            dtls_pair()

    return best(run, packets=20)


def main() -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    gcm, cm = SrtpProfile.AEAD_AES_128_GCM, SrtpProfile.AES128_CM_SHA1_80
    measures: dict[str, Callable[[], float]] = {
        "send, sendmmsg": lambda: bench_send(batched=True),
        "send, sendto": lambda: bench_send(batched=False),
        "receive, recvmmsg": lambda: bench_receive(batched=True),
        "receive, recvfrom": lambda: bench_receive(batched=False),
        "protect in place, GCM 128": lambda: bench_protect(gcm),
        "protect in place, CM SHA1 80": lambda: bench_protect(cm),
        "protect through copies, GCM 128": lambda: bench_protect(gcm, copying=True),
        "unprotect in place, GCM 128": lambda: bench_unprotect(gcm),
        "protect in place and send, GCM 128": lambda: bench_forward(gcm),
        "dtls data, both ends": bench_dtls_data,
        "dtls handshake, both ends, with a certificate": bench_dtls_handshake,
    }
    print(f"commit {commit.stdout.strip()}, microseconds per packet of {SIZE} bytes")
    for name, measure in measures.items():
        print(f"{measure():8.2f}  {name}")


if __name__ == "__main__":
    main()
