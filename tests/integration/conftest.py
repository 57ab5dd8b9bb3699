"""What the integration tests share: room for many sockets, the start of processes, and a certificate."""

from __future__ import annotations

import datetime
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.integration.processes import LOOPBACK, Proxy, Twistd

DESCRIPTORS: Final = 4096


@pytest.fixture(scope="session", autouse=True)
def many_descriptors() -> None:
    """The test process holds both ends of every session; the usual limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


@attrs.frozen
class Starter:
    """Starts processes in one folder, which all are ended with the test."""

    folder: Path
    _stack: ExitStack = attrs.Factory(ExitStack)

    def proxy(self, *options: str, **how: Any) -> Proxy:
        return self._stack.enter_context(Proxy(self.folder, *options, **how))

    def twistd(self, *arguments: str, **how: Any) -> Twistd:
        return self._stack.enter_context(Twistd(self.folder, *arguments, **how))

    def closing(self, close: Callable[[], None]) -> None:
        """Call `close`, too, when the test ends."""
        self._stack.callback(close)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    starter = Starter(tmp_path)
    yield starter
    starter.close()


@attrs.frozen
class Certificate:
    """One for 127.0.0.1 that is its own authority, in PEM files."""

    certificate: Path
    key: Path


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, LOOPBACK)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))
    builder = builder.not_valid_after(now + datetime.timedelta(days=1))
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK))])
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    certificate = Certificate(folder / "certificate.pem", folder / "key.pem")
    certificate.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    certificate.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate
