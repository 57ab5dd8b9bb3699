"""What the integration tests share: room for many sockets, processes and pools, the variants, and a certificate."""

from __future__ import annotations

import datetime
import resource
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Final

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.integration.addresses import LOOPBACK
from tests.integration.pools import Pool
from tests.integration.proxies import Proxy
from tests.integration.twistd import REACTORS, UVLOOP, Twistd

DESCRIPTORS: Final = 4096
CARRIERS: Final = ["portable", "splice"]
BY_REPORT: Final = ("--policy", "report")
"""For tests that have to know which back-end is chosen: the one that reports the least, whatever it has done so far."""


def carrier_options(carrier: str) -> list[str]:
    """The options of `twistd rproxy` that select a carrier."""
    return ["--carrier", carrier]


@attrs.frozen
class Variant:
    """One way to run the proxy."""

    carrier: str
    reactor: str

    @property
    def options(self) -> list[str]:
        return carrier_options(self.carrier)

    @property
    def tls_options(self) -> list[str]:
        """For a proxy that has a TLS listener, too, which the splice carrier alone does not take."""
        return carrier_options("auto" if self.carrier == "splice" else self.carrier)


def _variants(*pairs: tuple[str, str]) -> list[Any]:
    return [pytest.param(Variant(carrier, reactor), id=f"{carrier}-{reactor}") for carrier, reactor in pairs]


VARIANTS: Final = _variants(*((carrier, reactor) for carrier in CARRIERS for reactor in REACTORS), ("splice", UVLOOP))
every_carrier: Final = pytest.mark.parametrize(
    "variant", _variants(*((carrier, "epoll") for carrier in CARRIERS)), indirect=True, scope="module"
)
"""For modules of tests to which the reactor makes no difference."""


every_transport: Final = pytest.mark.parametrize(
    "variant",
    _variants(("splice", "epoll"), *(("portable", reactor) for reactor in REACTORS)),
    indirect=True,
    scope="module",
)
"""For those to which it makes one for Twisted's transports alone."""


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

    def elsewhere(self) -> Starter:
        """In a folder of its own, which every process of one command needs for its pid file."""
        return Starter(Path(mkdtemp(dir=self.folder)), self._stack)

    def pool(self, *options: str, **how: Any) -> Pool:
        """At a proxy of its own."""
        pool = Pool(self.proxy(*options, **how))
        self.closing(pool.close)
        return pool

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


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Variant:
    variant: Variant = request.param
    return variant


def every_listener(folder: Path, certificate: Certificate) -> list[str]:
    """The options for one listener of each kind: IPv4, IPv6, UNIX, TLS."""
    files = f"privateKey={certificate.key}:certKey={certificate.certificate}"
    endpoints = [f"{LOOPBACK}:0", "[::1]:0", f"unix:{folder / 'socket'}", f"ssl:0:interface={LOOPBACK}:{files}"]
    return [word for endpoint in endpoints for word in ("--listen", endpoint)]


@pytest.fixture(scope="module")
def shared_proxy(
    variant: Variant, certificate: Certificate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    """One process for all tests that bring their own back-ends; on every kind of listener."""
    folder = tmp_path_factory.mktemp("proxy")
    listeners = every_listener(folder, certificate)
    with Proxy(folder, *listeners, *BY_REPORT, *variant.tls_options, reactor=variant.reactor) as proxy:
        yield proxy


@pytest.fixture
def pool(shared_proxy: Proxy) -> Iterator[Pool]:
    pool = Pool(shared_proxy)
    yield pool
    pool.close()


@pytest.fixture
def own_pool(variant: Variant, start: Starter) -> Pool:
    """At a process of the test's own, which it may end."""
    pool = Pool(start.proxy(*BY_REPORT, *variant.options, reactor=variant.reactor))
    start.closing(pool.abandon)
    return pool
