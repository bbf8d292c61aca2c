"""Our identity: a self-signed certificate, the digests that descriptions carry, and the OpenSSL settings with it."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from triosfu.srtp.profiles import SrtpProfile

if TYPE_CHECKING:
    from collections.abc import Sequence

LIFETIME, BACKDATED = timedelta(days=30), timedelta(days=1)  # clients' clocks may be behind ours
HASHES = frozenset({"sha-256", "sha-384", "sha-512"})  # sha-1 and md5 prove nothing any more
DIGEST = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2})*")
DTLS_1_2 = 0xFEFD
CIPHERS = ":".join(
    f"ECDHE-{signature}-{cipher}"
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    for signature in ("ECDSA", "RSA")
)
# As server our order decides: the cheapest cipher first.
OFFERED = (SrtpProfile.AEAD_AES_128_GCM, SrtpProfile.AEAD_AES_256_GCM, SrtpProfile.AES128_CM_SHA1_80)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A digest of a certificate as `a=fingerprint` carries it: "sha-256", "AB:CD:…" (RFC 8122, section 5)."""

    algorithm: str
    value: str

    def matches(self, der: bytes) -> bool:
        """Whether `der` is the certificate this digest was made of; never for sha-1, md5 or a malformed value."""
        algorithm = self.algorithm.lower()
        if algorithm not in HASHES or not DIGEST.fullmatch(self.value):
            return False
        digest = hashlib.new(algorithm.replace("-", ""), der).digest()
        return hmac.compare_digest(digest, bytes.fromhex(self.value.replace(":", "")))


class Certificate:
    """A certificate with its private key. One may serve any number of connections."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key
        self._context: SSL.Context | None = None
        digest = certificate.fingerprint(SHA256())
        self.fingerprint = digest.hex(":").upper()
        """The SHA-256 digest of the certificate in SDP's form: "AB:CD:…"."""

    @classmethod
    def generate(cls, *, not_before: datetime | None = None) -> Self:
        """A new ECDSA P-256 key with a self-signed certificate for 30 days, from a day ago unless told otherwise.

        Costs 0.2 to 0.4 ms.
        """
        start = not_before or datetime.now(tz=UTC) - BACKDATED
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "triosfu")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + LIFETIME)
        )
        return cls(builder.sign(key, SHA256()), key)

    @property
    def der(self) -> bytes:
        """The certificate in DER, which fingerprints are made of."""
        return self._certificate.public_bytes(Encoding.DER)

    def fingerprints(self) -> Sequence[Fingerprint]:
        """What our descriptions say about this certificate."""
        return (Fingerprint("sha-256", self.fingerprint),)

    def context(self) -> SSL.Context:
        """The OpenSSL context of every connection under this certificate, for both roles; made once."""
        if self._context is None:
            self._context = self._make_context()
        return self._context

    def _make_context(self) -> SSL.Context:
        context = SSL.Context(SSL.DTLS_METHOD)
        context.set_min_proto_version(DTLS_1_2)
        context.set_max_proto_version(DTLS_1_2)  # 1.3 has other records and retransmits in another way
        # Without NO_QUERY_MTU OpenSSL forgets the MTU it was told and cuts flights into 256-byte records.
        context.set_options(
            SSL.OP_NO_QUERY_MTU
            | SSL.OP_NO_TICKET
            | SSL.OP_NO_RENEGOTIATION
            | SSL.OP_NO_COMPRESSION
            | SSL.OP_CIPHER_SERVER_PREFERENCE
        )
        # A resumed session would come without the certificate that the fingerprint is checked against.
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        context.set_cipher_list(CIPHERS.encode())
        context.use_certificate(self._certificate)
        context.use_privatekey(self._key)
        context.set_tlsext_use_srtp(":".join(profile.openssl_name for profile in OFFERED).encode())
        # Peers are known by fingerprint, not by a chain: take any certificate here, compare it after the handshake.
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
        return context
