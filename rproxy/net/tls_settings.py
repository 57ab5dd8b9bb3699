"""What TLS is to be like, towards clients and towards back-ends. All files are absolute paths, of the PEM format."""

from __future__ import annotations

from typing import Final

import attrs

TLS_VERSIONS: Final = ("1.2", "1.3")


@attrs.frozen
class TlsConfig:
    """TLS towards clients."""

    certificates: tuple[tuple[str, str], ...]
    """Files of certificates, each with that of its key, which may be the same. The client's SNI selects among them; the
    first one is for all other names.
    """
    alpn: tuple[str, ...] = ()
    """Protocols offered, the preferred one first; none: the extension is not answered."""
    min_version: str = TLS_VERSIONS[0]
    """The lowest version of TLS, one of `TLS_VERSIONS`."""
    client_ca: str | None = None
    """File of authorities: clients must have a certificate of one of them; None for no client certificates."""


@attrs.frozen
class SendTlsConfig:
    """TLS towards back-ends."""

    verify: bool = True
    """Whether their certificates must be valid, for `server_name` or else the name or address of the back-end."""
    ca: str | None = None
    """File of the authorities to trust; None for those of the system."""
    server_name: str | None = None
    """The name to ask for (SNI) and to verify."""
    certificate: str | None = None
    key: str | None = None
    """Files of our own certificate and its key, for back-ends that ask for one."""
    alpn: tuple[str, ...] = ()


@attrs.define
class TlsFileError(Exception):
    """A file that cannot be used for TLS. `str()` is one line: ``FILE: REASON``."""

    part: str
    """What it was to be: ``certificate``, ``key``, ``client-ca`` or ``ca``, as the keys of the configuration."""
    path: str
    reason: str
    number: int = 0
    """Which one it is, of several certificates or keys."""

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"
