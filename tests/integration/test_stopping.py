"""What a proxy does when it is told to stop: with its sessions, and with clients that the kernel has let in already."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Final

import pytest

from rproxy.net.addresses import written
from tests.integration.addresses import LOOPBACK
from tests.integration.conftest import Starter, Variant, every_transport
from tests.integration.logs import failures
from tests.integration.polling import PROMPT_S, READY_S, STOP_S, poll
from tests.integration.pools import Pool
from tests.integration.servers import Listener, echo
from tests.integration.sockets import connect, receive, receive_until_reset
from tests.integration.stopwatch import Stopwatch

LONG_S: Final = 30.0
QUEUED: Final = 200

pytestmark = every_transport


@pytest.fixture
def pool(variant: Variant, start: Starter) -> Iterator[Pool]:
    """At a proxy whose sessions may go on for the default time."""
    pool = Pool(start.proxy(*variant.options, "--drain-timeout", f"{LONG_S:g}", reactor=variant.reactor))
    yield pool
    pool.abandon()


def refuses(pool: Pool) -> bool:
    """One that is still let in is gone at once."""
    try:
        connect(pool.proxy.address).close()
    except ConnectionRefusedError:
        return True
    return False


def test_sessions_go_on_and_the_process_ends_with_the_last(pool: Pool) -> None:
    links = pool.links(3)
    pool.proxy.send_signal(signal.SIGTERM)
    pool.proxy.logged(r"stopping: (3) session\(s\) left, which may go on for 30 s")
    poll(lambda: refuses(pool), PROMPT_S, "it listens no more")
    time.sleep(1.5)
    for client, server in links:
        client.sendall(b"question")
        assert receive(server, 8) == b"question"
        server.sendall(b"answer")
        assert receive(client, 6) == b"answer"
    for client, server in links:
        client.close()
        server.close()
    assert pool.proxy.wait(STOP_S) == -signal.SIGTERM
    assert "stopping: no session is left" in pool.proxy.log
    assert failures(pool.proxy.log) == []


def test_a_second_signal_resets_them_at_once(pool: Pool) -> None:
    client, _ = pool.link()
    pool.proxy.send_signal(signal.SIGTERM)
    pool.proxy.logged(r"stopping: (1) session\(s\) left")
    pool.proxy.send_signal(signal.SIGINT)
    assert pool.proxy.wait(STOP_S) == -signal.SIGTERM
    assert receive_until_reset(client) == b""
    assert failures(pool.proxy.log) == []
    assert pool.proxy.errors == ""


def test_without_any_time_they_are_reset_where_nothing_else_has_to_be_closed(start: Starter, variant: Variant) -> None:
    """A clean end would tell clients and servers that they have got everything."""
    file = start.folder / "rproxy.toml"
    listener = Listener()
    start.closing(listener.close)
    backend = f'[[service.backend]]\naddress = "{written(listener.address)}"\ncheck = "none"\n'
    file.write_text(f'[proxy]\ndrain-timeout = 0\n[[service]]\nlisten = "{LOOPBACK}:0"\n{backend}')
    process = start.twistd("rproxy", "--config", str(file), *variant.options, reactor=variant.reactor)
    port = process.logged(rf"listening for clients on {LOOPBACK}:(\d+)")
    with connect((LOOPBACK, int(port))) as client:
        server = listener.accept()
        server.sendall(b"part of an answer")
        assert receive(client, 17) == b"part of an answer"
        assert process.stop() == -signal.SIGTERM
        assert receive_until_reset(client) == receive_until_reset(server) == b""


def test_without_a_session_a_stop_is_immediate(pool: Pool) -> None:
    client, server = pool.link()
    client.close()
    server.close()
    pool.settled(within_s=PROMPT_S)
    watch = Stopwatch()
    assert pool.proxy.stop() == -signal.SIGTERM
    assert watch.own_s < PROMPT_S
    assert "stopping" not in pool.proxy.log


def test_clients_in_the_accept_queue_are_served(pool: Pool) -> None:
    """The process sleeps while they connect, and wakes up to the signal."""
    pool.serve(echo)
    pool.proxy.send_signal(signal.SIGSTOP)
    clients = [pool.connect() for _ in range(QUEUED)]
    pool.proxy.send_signal(signal.SIGTERM)
    pool.proxy.send_signal(signal.SIGCONT)
    for client in clients:
        client.sendall(b"hello")
        assert receive(client, 5) == b"hello"
    poll(lambda: refuses(pool), READY_S, "it listens no more")
    for client in clients:
        client.close()
    assert pool.proxy.wait(READY_S) == -signal.SIGTERM
    assert failures(pool.proxy.log) == []
