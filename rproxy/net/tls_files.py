"""Certificates, keys and authorities from files of the PEM format (RFC 7468), checked before OpenSSL gets them."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import attrs
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from rproxy.net.files import open_nonblocking
from rproxy.net.tls_settings import TlsFileError

SIZE_MAX: Final = 16 << 20
"""In bytes. The authorities of a whole system take some 200 kB."""

_TO_THE_MINUTE: Final = "%Y-%m-%d %H:%M UTC"


@attrs.frozen
class Identity:
    """A certificate with those of the authorities between it and a root, and its key."""

    path: str
    """The certificates' file."""
    chain: tuple[x509.Certificate, ...]
    """Its own certificate comes first."""
    key: Any
    """A private key of `cryptography`."""

    @property
    def names(self) -> frozenset[str]:
        """The host names that it is for, in lower case, some as ``*.example.org``. The common name counts only if
        there are no alternative names, as in RFC 6125, 6.4.4.
        """
        try:
            alternatives = self.chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (x509.ExtensionNotFound, ValueError):
            common = self.chain[0].subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
            return frozenset(str(each.value).lower() for each in common)
        return frozenset(name.lower() for name in alternatives.get_values_for_type(x509.DNSName))

    @property
    def kind(self) -> type:
        """The kind of its key: a client may support only some."""
        return type(self.key)

    def untimely(self, now: datetime) -> str | None:
        """What is wrong with its dates, or with those of the authorities that come with it; None for nothing."""
        for certificate in self.chain:
            starts, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            if now > ends:
                return f"{_whose(certificate, self)} has expired on {ends:{_TO_THE_MINUTE}}"
            if now < starts:
                return f"{_whose(certificate, self)} is valid only from {starts:{_TO_THE_MINUTE}}"
        return None

    @property
    def expires(self) -> datetime:
        return self.chain[0].not_valid_after_utc


def _whose(certificate: x509.Certificate, identity: Identity) -> str:
    if certificate is identity.chain[0]:
        return "the certificate"
    return f"the certificate of {certificate.subject.rfc4514_string()}"


def read_identity(certificate_path: str, key_path: str, number: int = 0) -> Identity:
    """A certificate and its key. Raises `TlsFileError`, for number `number` of several."""
    chain = _certificates("certificate", certificate_path, number)
    key = _key(key_path, number)
    if key.public_key() != chain[0].public_key():
        where = "" if key_path == certificate_path else f" in {certificate_path}"
        raise TlsFileError("key", key_path, f"the key is not that of the first certificate{where}", number)
    return Identity(certificate_path, chain, key)


def read_authorities(part: str, path: str) -> Sequence[x509.Certificate]:
    """The certificates of authorities in a file. Raises `TlsFileError`."""
    certificates = _certificates(part, path, 0)
    if not any(_may_be_authority(each) for each in certificates):
        raise TlsFileError(part, path, "no certificate there is that of an authority (CA:TRUE)")
    return certificates


def _may_be_authority(certificate: x509.Certificate) -> bool:
    """A self-signed certificate may be trusted as its own authority, and old ones have no constraints."""
    if certificate.issuer == certificate.subject:
        return True
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _certificates(part: str, path: str, number: int) -> tuple[x509.Certificate, ...]:
    data = _read(part, path, number)
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise TlsFileError(part, path, "there is no certificate of the PEM format in it", number)
    try:
        return tuple(x509.load_pem_x509_certificates(data))
    except ValueError:
        raise TlsFileError(part, path, "a certificate in it is damaged", number) from None


def _key(path: str, number: int) -> Any:
    data = _read("key", path, number)
    if b"PRIVATE KEY-----" not in data:
        raise TlsFileError("key", path, "there is no private key of the PEM format in it", number)
    try:
        return load_pem_private_key(data, None)
    except TypeError:
        reason = "the key has a passphrase, which cannot be given here; 'openssl pkey' writes it without"
    except (ValueError, UnsupportedAlgorithm):
        reason = "the key is damaged, or of an unknown kind"
    raise TlsFileError("key", path, reason, number)


def _read(part: str, path: str, number: int) -> bytes:
    try:
        with open(path, "rb", opener=open_nonblocking) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise TlsFileError(part, path, "not a regular file", number)
            data = file.read(SIZE_MAX + 1)
    except (OSError, ValueError) as error:
        raise TlsFileError(part, path, getattr(error, "strerror", None) or str(error), number) from None
    if len(data) > SIZE_MAX:
        raise TlsFileError(part, path, f"larger than {SIZE_MAX >> 20} MiB", number)
    return data
