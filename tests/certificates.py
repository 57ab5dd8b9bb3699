"""Authorities and certificates for tests, in files of the PEM format."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Sequence
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Self

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

DAY: Final = datetime.timedelta(days=1)


@cache
def rsa_key(number: int = 0) -> rsa.RSAPrivateKey:  # noqa: ARG001 - one of several
    """A key that takes a moment to make, so that tests share it."""
    return rsa.generate_private_key(65537, 2048)


def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def pem(key: Any, passphrase: str = "") -> bytes:
    encryption: KeySerializationEncryption = (
        BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    )
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return data


@attrs.frozen
class Files:
    """A certificate with its chain, and its key."""

    certificate: Path
    key: Path

    @property
    def pair(self) -> tuple[str, str]:
        return str(self.certificate), str(self.key)

    def server_context(self, client_ca: Path | None = None, alpn: str = "") -> ssl.SSLContext:
        """For a server on Python's own TLS. Clients without a certificate of `client_ca`, if given, are refused."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*self.pair)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        if alpn:
            context.set_alpn_protocols([alpn])
        return context

    def replace(self, other: Files) -> None:
        """Put the content of `other` in place of this one's."""
        self.certificate.write_bytes(other.certificate.read_bytes())
        self.key.write_bytes(other.key.read_bytes())


@attrs.frozen
class Authority:
    """Signs certificates. Its own is in `path`."""

    folder: Path
    certificate: x509.Certificate
    key: Any
    above: tuple[x509.Certificate, ...] = ()
    """Those between it and a root, itself included, if it is no root."""

    @classmethod
    def root(cls, folder: Path, name: str = "tests") -> Self:
        key = ec_key()
        return cls(folder, _signed(name, key.public_key(), name, key, authority=True), key)._saved()

    def intermediate(self, name: str) -> Authority:
        key = ec_key()
        signed = _signed(name, key.public_key(), self.name, self.key, authority=True)
        return Authority(self.folder, signed, key, (signed, *self.above))._saved()

    def _saved(self) -> Self:
        self.path.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return self

    @property
    def name(self) -> str:
        return str(self.certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}-authority.pem"

    def issue(
        self,
        *names: str,
        file: str = "",
        key: Any = None,
        starts: datetime.timedelta = -DAY,
        ends: datetime.timedelta = DAY,
        common_name: str = "",
    ) -> Files:
        """A certificate for host names and IP addresses, in files called `file`, or as the first name."""
        key = ec_key() if key is None else key
        common_name = common_name or (names[0] if names else "nobody")
        signed = _signed(common_name, key.public_key(), self.name, self.key, names=names, starts=starts, ends=ends)
        file = (file or common_name).replace("*", "any")
        made = Files(self.folder / f"{file}.pem", self.folder / f"{file}.key")
        made.certificate.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in (signed, *self.above)))
        made.key.write_bytes(pem(key))
        return made


def _signed(
    name: str,
    public_key: Any,
    issuer: str,
    issuer_key: Any,
    *,
    names: Sequence[str] = (),
    authority: bool = False,
    starts: datetime.timedelta = -DAY,
    ends: datetime.timedelta = DAY,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(
        _named(issuer), _named(name), public_key, x509.random_serial_number(), now + starts, now + ends
    )
    signs = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    builder = builder.add_extension(signs, critical=False)
    builder = builder.add_extension(_usage(authority=authority), critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(each) for each in names]), False)
    return builder.sign(issuer_key, hashes.SHA256())


def _usage(*, authority: bool) -> x509.KeyUsage:
    """RFC 5280 asks for it, and Python from 3.13 on looks whether an authority may sign."""
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
