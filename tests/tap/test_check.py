"""`rproxy check`, which says what a proxy would do, and `rproxy config`, whose file it takes."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from rproxy.tap import check as module
from rproxy.tap.command import main
from tests.certificates import DAY, Authority, Files
from tests.config.files import NAME, toml
from tests.config.keyfiles import FIRST, SECOND, key_file, text_file
from tests.conftest import need

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that knows two names."""
    known = {"db.test": ["192.0.2.1", "2001:db8::1"], "localhost": ["127.0.0.1"], "10.1.1.9": ["10.1.1.9"]}

    def look_up(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(2, 1, 6, "", (address, 0)) for address in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def checked(capfd: Captured, path: str) -> list[str]:
    """What is said of a good file."""
    assert main(["check", path]) == 0
    output = capfd.readouterr()
    assert output.err == ""
    return output.out.splitlines()


def wrong(capfd: Captured, path: str) -> list[str]:
    """What is said of a bad one, without its folder."""
    assert main(["check", path]) == 1
    output = capfd.readouterr()
    assert output.out == ""
    return [line.replace(path, NAME) for line in output.err.splitlines()]


def plan(folder: Path, capfd: Captured, text: str) -> list[str]:
    return checked(capfd, toml(folder, text))


def service_lines(folder: Path, capfd: Captured, text: str) -> list[str]:
    """The lines about the one service that is not there for agents."""
    lines = plan(folder, capfd, f'[[service]]\nlisten = 80\n{text}\n[[service.backend]]\naddress = "10.1.1.9:80"\n')
    return [line.strip() for line in lines[lines.index("service 80") + 1 :]]


def test_a_whole_file(tmp_path: Path, capfd: Captured) -> None:
    key_file(tmp_path, FIRST, SECOND, name="rproxy.keys")
    text = """
[proxy]
monitor = ["5555", "127.0.0.1:5556"]
keyring = "rproxy.keys"
admin = "127.0.0.1:8081"
state-file = "rproxy.state"
max-connections = 5
[[service]]
name = "web"
listen = ["80", "[::1]:8080", "unix:/run/web.sock"]
from = ["10.1.1.0/24", "10.1.2.1"]
policy = { name = "report", saturation = 0.9 }
send-proxy = 2
max-connections = 10000
[service.backends]
max-connections = 200
[[service]]
name = "db"
listen = "127.0.0.1:5432"
affinity = "source"
clients = ["10.0.0.0/8"]
[[service.backend]]
address = "db.test:5432"
weight = 50
check = "none"
"""
    assert plan(tmp_path, capfd, text) == [
        "process",
        "  agents register at UDP 5555 of every address and 127.0.0.1:5556, "
        f"with keys of {tmp_path}/rproxy.keys (2 keys)",
        "  status at http://127.0.0.1:8081/",
        "  operators who may change something: none without admin-token-file",
        f"  back-ends are kept in {tmp_path}/rproxy.state",
        "  sessions: at most 5, carried by auto",
        "  a stop waits up to 30 s for sessions to end",
        "service web",
        "  clients at 80 of every address",
        "  clients at [::1]:8080",
        "  clients at unix:/run/web.sock",
        "  agents: those that register port 80 or none, from 10.1.1.0/24 and 10.1.2.1",
        "  policy report (saturation=0.9)",
        "  back-ends get PROXY headers of version 2",
        "  at most 10000 sessions",
        "  at most 200 sessions on a back-end",
        "  up to 1000 clients for each full back-end wait up to 5 s",
        "  idle timeout 3600 s, half-close timeout 30 s",
        "service db",
        "  clients at 127.0.0.1:5432",
        "  clients from 10.0.0.0/8 only",
        "  agents: none",
        "  back-end db.test:5432 (192.0.2.1, 2001:db8::1), weight 50, check none",
        "  policy expected-delay, affinity source",
        "  idle timeout 3600 s, half-close timeout 30 s",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('deny = "10.1.0.0/16"', "no clients from 10.1.0.0/16"),
        ('shadow = { name = "p2c", choices = 3 }', "compared with policy p2c (choices=3)"),
        ("max-connections-per-client = 1", "at most 1 session of a client"),
        ("connections-per-second-per-client = 2.5", "at most 2.5 new connections a second of a client"),
        (
            'proxy-protocol-from = ["10.0.0.1", "::1"]',
            "PROXY headers from 10.0.0.1 and ::1, and no connections without",
        ),
        ('source = ["127.0.0.1", "127.0.0.2"]', "connects to back-ends from 127.0.0.1 and 127.0.0.2"),
        ('source = "client"', "connects to back-ends from client"),
        ("send-tls = true", "TLS to back-ends, verified by the authorities of the system"),
        ("send-tls = { verify = false }", "TLS to back-ends, not verified"),
        ("idle-timeout = 0", "idle timeout none, half-close timeout 30 s"),
        ("backend-port = 81", "agents: those that register port 81 or none"),
    ],
)
def test_what_a_key_does_is_said(tmp_path: Path, capfd: Captured, text: str, line: str) -> None:
    if "backend-port" in text:
        text = f'from = "10.0.0.0/8"\n{text}'
        line += ", from 10.0.0.0/8"
    assert line in service_lines(tmp_path, capfd, text)


def test_a_back_ends_own_terms_are_said(tmp_path: Path, capfd: Captured) -> None:
    lines = service_lines(
        tmp_path, capfd, '[[service.backend]]\naddress = "10.1.1.9:81"\nmax-connections = 7\nsend-proxy = 0'
    )
    assert "back-end 10.1.1.9:81, weight 100, check connect, at most 7 sessions, no PROXY headers" in lines


def test_one_service_alone_takes_every_port(tmp_path: Path, capfd: Captured) -> None:
    lines = plan(tmp_path, capfd, '[proxy]\nmonitor = "127.0.0.1:5555"\n[[service]]\nlisten = 80\n')
    assert "  agents: those that register any port or none, which means 80" in lines


def test_all_errors_are_told_at_once_those_of_names_too(tmp_path: Path, capfd: Captured) -> None:
    text = """
[proxy]
monitr = 5
keyring = "missing.keys"
[[service]]
listen = [80, "99999"]
[[service]]
listen = 81
[[service.backend]]
address = "nowhere.test:5432"
[[service.backend]]
address = "elsewhere.test:5432"
"""
    assert wrong(capfd, toml(tmp_path, text)) == [
        f'{NAME}: proxy.keyring: "{tmp_path}/missing.keys": No such file or directory',
        f"{NAME}: proxy.monitr: there is no such key; do you mean monitor?",
        f"{NAME}: service[0].listen[1]: port 99999 is above 65535",
        f'{NAME}: service[1].backend[0].address: "nowhere.test:5432": Name or service not known',
        f'{NAME}: service[1].backend[1].address: "elsewhere.test:5432": Name or service not known',
    ]


def test_listeners_that_only_the_service_manager_has_are_not_made(tmp_path: Path, capfd: Captured) -> None:
    text = '[proxy]\nallow = "10.0.0.0/8"\n[[service]]\nlisten = "systemd:domain=INET:index=0"'
    assert "  clients at systemd:domain=INET:index=0" in plan(tmp_path, capfd, text)


def test_listeners_of_plugins_are_made(tmp_path: Path, capfd: Captured) -> None:
    text = '[proxy]\nallow = "10.0.0.0/8"\n[[service]]\nlisten = "haproxy:tcp:x"'
    assert wrong(capfd, toml(tmp_path, text)) == [
        f"""{NAME}: service[0].listen[0]: "haproxy:tcp:x": 'x' is not a number"""
    ]


def with_tls(files: Files) -> str:
    tls = f'{{ certificate = "{files.certificate}", key = "{files.key}" }}'
    return f'[proxy]\nallow = "10.0.0.0/8"\n[[service]]\nlisten = [80, {{ address = 443, tls = {tls} }}]\n'


def test_certificates_and_keys_are_read(tmp_path: Path, capfd: Captured) -> None:
    files = Authority.root(tmp_path).issue("web.test")
    path = toml(tmp_path, with_tls(files) + f'send-tls = {{ ca = "{files.key}" }}\ntls = {{ certificate = "{NAME}" }}')
    assert wrong(capfd, path) == [
        f'{NAME}: service[0].tls.certificate: "{NAME}": there is no certificate of the PEM format in it',
        f'{NAME}: service[0].send-tls.ca: "{files.key}": there is no certificate of the PEM format in it',
    ]
    lines = plan(tmp_path, capfd, with_tls(files))
    assert f"  clients at 443 of every address, TLS 1.2 or higher with {files.certificate}" in lines
    assert [line for line in lines if line.startswith("note: ")] == []


def test_every_file_of_tls_that_cannot_be_used_is_told(tmp_path: Path, capfd: Captured) -> None:
    authority = Authority.root(tmp_path)
    one, two, ca = authority.issue("one.test"), authority.issue("two.test"), authority.path
    text = with_tls(one) + (
        f'tls = {{ certificate = ["{one.key}", "{two.certificate}", "{one.certificate}"], '
        f'key = ["{one.key}", "{one.key}", "{one.key}"], client-ca = "{one.certificate}" }}\n'
        f'send-tls = {{ certificate = "{ca}", key = "{one.key}", ca = "{one.key}" }}\n'
    )
    no_certificate = "there is no certificate of the PEM format in it"
    assert wrong(capfd, toml(tmp_path, text)) == [
        f'{NAME}: service[0].tls.certificate[0]: "{one.key}": {no_certificate}',
        f'{NAME}: service[0].tls.key[1]: "{one.key}": the key is not that of the first certificate in '
        f"{two.certificate}",
        f'{NAME}: service[0].tls.client-ca: "{one.certificate}": no certificate there is that of an authority '
        "(CA:TRUE)",
        f'{NAME}: service[0].send-tls.key: "{one.key}": the key is not that of the first certificate in {ca}',
        f'{NAME}: service[0].send-tls.ca: "{one.key}": {no_certificate}',
    ]


def test_a_certificate_that_has_expired_is_a_note(tmp_path: Path, capfd: Captured) -> None:
    files = Authority.root(tmp_path).issue("web.test", starts=-2 * DAY, ends=-DAY)
    (note,) = [line for line in plan(tmp_path, capfd, with_tls(files)) if line.startswith("note: ")]
    assert note.startswith(
        f"note: service[0].listen[1].tls.certificate {files.certificate}: the certificate has expired"
    )


def test_what_this_host_has_not_is_a_note(tmp_path: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "raise_descriptor_limit", lambda: 1024)
    text_file(tmp_path, "a-token-of-24-characters\n", name="tokens")
    text = '[proxy]\nmonitor = "203.0.113.1:5555"\nallow = "10.0.0.0/8"\nadmin = "203.0.113.2:80"\n'
    text += 'admin-token-file = "tokens"\n'
    text += "max-connections = 90000\n"
    text += '[[service]]\nlisten = "203.0.113.3:80"\nsource = "2001:db8::1"\n'
    lines = plan(tmp_path, capfd, text)
    assert [line for line in lines if line.startswith("note: ")] == [
        "note: proxy.monitor 203.0.113.1: this host has no such address now",
        "note: proxy.admin 203.0.113.2: this host has no such address now",
        "note: service[0].listen 203.0.113.3: this host has no such address now",
        "note: service[0].source 2001:db8::1: this host has no such address now",
        "note: proxy.max-connections 90000: 1024 open files are enough for 424 (ulimit -n)",
    ]
    lines = plan(tmp_path, capfd, text.replace("[proxy]", "[proxy]\nfreebind = true"))
    assert [line for line in lines if "no such address" in line] == []


def test_a_missing_file_is_a_line(tmp_path: Path, capfd: Captured) -> None:
    assert wrong(capfd, str(tmp_path / NAME)) == [f"{NAME}: No such file or directory"]


def test_no_name_is_a_line(capfd: Captured) -> None:
    assert main(["check", ""]) == 1
    assert capfd.readouterr().err == "rproxy check: error: no file is named\n"


def test_names_of_files_need_not_be_text(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    assert main(["check", toml(folder, '[proxy]\nmonitor = "127.0.0.1:5555"\nstate-file = "rows"\n')]) == 0
    assert b"/\xff/rows\n" in capfdbinary.readouterr().out
    assert main(["check", str(folder / "missing")]) == 1


def test_no_output_is_an_error(capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    assert main(["config"]) == 1
    assert capfd.readouterr().err == "rproxy config: error: standard output: it is closed\n"


def test_the_key_file_may_be_that_of_the_user_who_runs_the_proxy(tmp_path: Path, capfd: Captured) -> None:
    need(root=True)
    os.chown(key_file(tmp_path, FIRST), 4321, 0)
    path = toml(tmp_path, '[proxy]\nkeyring = "keys"\n')
    (line,) = wrong(capfd, path)
    assert line.endswith("it belongs to user 4321, who is neither root nor the one that uses it")
    assert main(["check", path, "--uid", "4321"]) == 0
    assert main(["check", path, "--uid", "root"]) == 1


@pytest.mark.parametrize("user", ["no-such-user", "", "²"])
def test_an_unknown_user_is_an_error(user: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["check", "file", "--uid", user])
    assert ended.value.code == 2


def test_the_starting_file_is_right(tmp_path: Path, capfd: Captured) -> None:
    assert main(["config"]) == 0
    lines = plan(tmp_path, capfd, capfd.readouterr().out)
    assert "  clients at 8080 of every address" in lines
    assert "  agents register at UDP 127.0.0.1:5555, without keys" in lines


def test_every_setting_of_the_starting_file_that_is_commented_out_is_right(tmp_path: Path, capfd: Captured) -> None:
    assert main(["config"]) == 0
    tables: list[dict[str, str]] = []
    for line in capfd.readouterr().out.splitlines():
        setting = line.removeprefix("#")
        if setting.startswith("["):
            tables.append({"": setting})
        elif setting and not setting.startswith(" "):
            tables[-1][setting.partition(" = ")[0]] = setting  # the later one of two
    key_file(tmp_path, FIRST, name="rproxy.keys")
    files = Authority.root(tmp_path).issue("web.test")
    files.certificate.rename(tmp_path / "certificate.pem")
    files.key.rename(tmp_path / "key.pem")
    settings = [setting for table in tables for setting in table.values()]
    assert len(settings) > 30
    assert "  back-end 10.1.1.9:5432, weight 100, check connect" in plan(tmp_path, capfd, "\n".join(settings))


def test_who_may_change_something_is_told(tmp_path: Path, capfd: Captured) -> None:
    text_file(tmp_path, "a-token-of-24-characters\n", name="tokens")
    text = '[proxy]\nmonitor = "127.0.0.1:5555"\nadmin = "unix:admin.sock"\nadmin-token-file = "tokens"\n'
    lines = plan(tmp_path, capfd, text + '[[service]]\nlisten = "127.0.0.1:80"\n')
    assert lines[2:4] == [
        f"  status at unix:{tmp_path}/admin.sock",
        f"  operators who may change something: its user and root and who has a token of {tmp_path}/tokens",
    ]
