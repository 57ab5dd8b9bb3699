"""Where connections to back-ends come from, on one host: what cannot be, and what is said about it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.conftest import need
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import BY_REPORT, Starter, Variant, every_carrier
from tests.integration.polling import READY_S
from tests.integration.test_commands import assert_it_says_in_one_line
from tests.integration.twistd import run_twistd

pytestmark = every_carrier

MISSING = "192.0.2.77"


def written(folder: Path, source: str) -> list[str]:
    """The options for a file whose service has this source."""
    file = folder / "rproxy.toml"
    file.write_text(f'[[service]]\nlisten = ["{LOOPBACK}:0"]\nsource = {source}\n', encoding="utf-8")
    return ["--config", str(file)]


def test_back_ends_see_the_sources_in_turn(start: Starter, variant: Variant) -> None:
    sources = ["127.0.0.5", "127.0.0.6"]
    pool = start.pool(*written(start.folder, str(sources)), *BY_REPORT, *variant.options)
    server = pool.listen()
    seen = []
    for _ in range(4):
        client = pool.connect()
        connection = server.accept()
        seen.append(connection.getpeername()[0])
        client.sendall(b"hello")
        assert connection.recv(5) == b"hello"
    assert sorted(seen) == sorted(sources * 2)


def test_a_back_end_sees_the_clients_own_address(start: Starter, variant: Variant) -> None:
    need(root=True)
    pool = start.pool(*written(start.folder, '"client"'), *BY_REPORT, *variant.options)
    server = pool.listen()
    client = pool.keep(socket.socket())
    client.bind(("127.0.0.9", 0))
    client.settimeout(READY_S)
    client.connect(pool.proxy.address)
    assert server.accept().getpeername()[0] == "127.0.0.9"


def test_a_source_that_this_host_lacks_is_one_line(tmp_path: Path, variant: Variant) -> None:
    options = written(tmp_path, f'["127.0.0.5", "{MISSING}"]')
    done = run_twistd(tmp_path, "rproxy", *options, "--monitor", f"{LOOPBACK}:0", *variant.options)
    assert_it_says_in_one_line(done, tmp_path, f'service[0].source: "{MISSING}": this host does not have this address')


@pytest.mark.parametrize(("how", "named"), [("started without", 'source: "client":'), ("--uid", "source client:")])
def test_the_missing_capability_is_one_line(tmp_path: Path, variant: Variant, how: str, named: str) -> None:
    (setpriv,) = need("setpriv", root=True)
    options = ["rproxy", *written(tmp_path, '"client"'), "--monitor", f"{LOOPBACK}:0", *variant.options]
    prefix = [setpriv, "--bounding-set=-net_admin,-net_raw", "--inh-caps=-all"] if how == "started without" else []
    if how == "--uid":
        tmp_path.chmod(0o777)
        options = ["--uid", "65534", "--gid", "65534", *options]
    done = run_twistd(tmp_path, *options, prefix=prefix)
    assert_it_says_in_one_line(done, tmp_path, f"{named} needs the capability CAP_NET_ADMIN")
