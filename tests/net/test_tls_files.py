"""Files of certificates and keys: what is taken from them, and what is wrong with others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from rproxy.net.tls_files import SIZE_MAX, read_authorities, read_identity
from rproxy.net.tls_settings import TlsFileError
from tests.certificates import DAY, Authority, Files, ec_key, pem, rsa_key

NOW = datetime.now(UTC)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.root(tmp_path)


@pytest.fixture
def files(authority: Authority) -> Files:
    return authority.issue("one.example")


@pytest.mark.parametrize("make", [ec_key, rsa_key, ed25519.Ed25519PrivateKey.generate], ids=["EC", "RSA", "Ed25519"])
def test_a_certificate_and_its_key_may_be_in_one_file_in_any_order(
    authority: Authority, make: Callable[[], object]
) -> None:
    files = authority.issue("one.example", key=make())
    both = authority.folder / "both.pem"
    for first, second in [files.pair, files.pair[::-1]]:
        both.write_bytes(Path(first).read_bytes() + Path(second).read_bytes())
        assert read_identity(str(both), str(both)).names == {"one.example"}


def test_a_chain_follows_its_certificate(authority: Authority) -> None:
    files = authority.intermediate("between").issue("one.example")
    chain = read_identity(*files.pair).chain
    assert [each.subject.rfc4514_string() for each in chain] == ["CN=one.example", "CN=between"]


def test_names_are_the_alternative_ones_and_else_the_common_one(authority: Authority) -> None:
    several = authority.issue("One.Example", "*.example.org", "192.0.2.1")
    assert read_identity(*several.pair).names == {"one.example", "*.example.org"}
    assert read_identity(*authority.issue(common_name="Old.Example").pair).names == {"old.example"}


def test_dates_are_those_of_the_whole_chain(authority: Authority) -> None:
    identity = read_identity(*authority.intermediate("between").issue("one.example", ends=DAY / 2).pair)
    assert identity.untimely(NOW) is None
    assert "the certificate has expired on 20" in str(identity.untimely(NOW + DAY * 0.7))
    assert "the certificate is valid only from 20" in str(identity.untimely(NOW - 2 * DAY))
    long = read_identity(*authority.intermediate("short").issue("one.example", ends=timedelta(days=9)).pair)
    assert "the certificate of CN=short has expired on" in str(long.untimely(NOW + 2 * DAY))


def spoil_certificate(files: Files) -> None:
    text = files.certificate.read_bytes()
    files.certificate.write_bytes(text[:60] + text[80:])


def spoil_key(files: Files) -> None:
    text = files.key.read_bytes()
    files.key.write_bytes(text[:60] + text[80:])


def make_fifo(files: Files) -> None:
    files.key.unlink()
    os.mkfifo(files.key)


def make_folder(files: Files) -> None:
    files.certificate.unlink()
    files.certificate.mkdir()


def make_huge(files: Files) -> None:
    os.truncate(files.key, SIZE_MAX + 1)


BROKEN: dict[str, tuple[Callable[[Files], object], str, str]] = {
    "no certificate's file": (lambda files: files.certificate.unlink(), "certificate", "No such file or directory"),
    "no key's file": (lambda files: files.key.unlink(), "key", "No such file or directory"),
    "a folder": (make_folder, "certificate", "Is a directory"),
    "a FIFO": (make_fifo, "key", "not a regular file"),
    "much too large": (make_huge, "key", "larger than 16 MiB"),
    "an empty certificate": (
        lambda files: files.certificate.write_bytes(b""),
        "certificate",
        "there is no certificate of the PEM format in it",
    ),
    "a key instead of a certificate": (
        lambda files: files.certificate.write_bytes(files.key.read_bytes()),
        "certificate",
        "there is no certificate of the PEM format in it",
    ),
    "a damaged certificate": (spoil_certificate, "certificate", "a certificate in it is damaged"),
    "a certificate instead of a key": (
        lambda files: files.key.write_bytes(files.certificate.read_bytes()),
        "key",
        "there is no private key of the PEM format in it",
    ),
    "a damaged key": (spoil_key, "key", "the key is damaged, or of an unknown kind"),
    "another's key": (
        lambda files: files.key.write_bytes(pem(ec_key())),
        "key",
        "the key is not that of the first certificate in ",
    ),
    "a key of another kind": (
        lambda files: files.key.write_bytes(pem(rsa_key())),
        "key",
        "the key is not that of the first certificate in ",
    ),
    "a passphrase": (lambda files: files.key.write_bytes(pem(ec_key(), "secret")), "key", "the key has a passphrase"),
}


@pytest.mark.parametrize(("damage", "part", "reason"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_used_says_which_file_and_why(
    files: Files, damage: Callable[[Files], object], part: str, reason: str
) -> None:
    damage(files)
    with pytest.raises(TlsFileError) as caught:
        read_identity(*files.pair, number=3)
    error = caught.value
    assert (error.part, error.number) == (part, 3)
    assert str(error).startswith(f"{files.certificate if part == 'certificate' else files.key}: {reason}")
    assert "\n" not in str(error)


@pytest.fixture
def unreadable(files: Files) -> Iterator[Files]:
    """Of which the key may not be read: root, who may read every file, is somebody else meanwhile."""
    files.key.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield files
    os.seteuid(user)


def test_a_file_that_may_not_be_read(unreadable: Files) -> None:
    with pytest.raises(TlsFileError, match="Permission denied"):
        read_identity(*unreadable.pair)


def test_authorities_are_certificates_that_may_sign_others(authority: Authority, files: Files) -> None:
    (only,) = read_authorities("client-ca", str(authority.path))
    assert only == authority.certificate
    files.key.write_bytes(files.certificate.read_bytes() + authority.path.read_bytes())
    assert len(read_authorities("client-ca", str(files.key))) == 2
    with pytest.raises(TlsFileError) as caught:
        read_authorities("client-ca", str(files.certificate))
    assert str(caught.value) == f"{files.certificate}: no certificate there is that of an authority (CA:TRUE)"
    assert caught.value.part == "client-ca"
    files.key.write_bytes(b"nothing")
    with pytest.raises(TlsFileError, match="no certificate of the PEM format"):
        read_authorities("ca", str(files.key))
