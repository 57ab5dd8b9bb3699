"""Configuration files: every key is read, and every error is told at once, with the path of its key."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from unittest.mock import Mock

import pytest
from cattrs.gen.typeddicts import make_dict_structure_fn

from rproxy.config import endpoints, toml_file
from rproxy.config.model import BackendConfig, BackendLimits, SendTlsConfig, TlsConfig
from rproxy.pool.limits import Limits
from rproxy.sessions.redispatch import Redispatch
from rproxy.sources.agents.prober import Timing
from tests.config.commands import ANY_HOST, parsed
from tests.config.files import NAME, error_of, errors_of, file_config, only_service, toml
from tests.config.keyfiles import FIRST, key_file

EXAMPLE = """
[proxy]                       # what the process has once
monitor = ["5555"]            # as --monitor; several
keyring = "rproxy.keys"
admin = "127.0.0.1:8081"
state-file = "rproxy.state"
drain-timeout = 30
[[service]]
name = "web"
listen = ["80", "[::]:8080"]
backend-port = 80             # agents that register this service port …
from = ["10.1.1.0/24"]        # … from these networks are its pool
policy = "expected-delay"     # or { name = "report", saturation = 0.9 }
send-proxy = 2
max-connections = 10000
[service.backends]            # for each of them
max-connections = 200
queue = 1000
queue-timeout = 5
[[service]]
name = "db"
listen = ["127.0.0.1:5432"]
affinity = "source"
clients = ["10.0.0.0/8"]
[[service.backend]]           # no agent there
address = "10.1.1.9:5432"
weight = 50
check = "connect"             # or "none", or "agent-check:9000"
"""


def test_two_services_with_most_keys(tmp_path: Path) -> None:
    key_file(tmp_path, FIRST, name="rproxy.keys")
    config = file_config(tmp_path, EXAMPLE, allow=())
    web, db = config.services
    assert config.keyring is not None
    assert (config.monitors, config.admin, config.drain_timeout_s) == ((("", 5555),), ("127.0.0.1", 8081), 30)
    assert (config.keyring.path, config.state_file) == (str(tmp_path / "rproxy.keys"), str(tmp_path / "rproxy.state"))
    assert config.file == str(tmp_path / NAME)
    assert (web.name, web.listen, web.policy, web.send_proxy) == ("web", ("80", "[::]:8080"), "expected-delay", 2)
    assert (web.takes_agents, web.service_port, web.backend_port) == (True, 80, 80)
    assert (web.allow, web.max_connections) == ((ip_network("10.1.1.0/24"),), 10000)
    assert web.each == BackendLimits(200, 1000, 5)
    assert (db.name, db.listen, db.affinity, db.clients) == (
        "db",
        ("127.0.0.1:5432",),
        "source",
        (ip_network("10.0.0.0/8"),),
    )
    assert db.takes_agents is False
    assert db.backends == (BackendConfig(("10.1.1.9", 5432), 50, "connect"),)
    assert [each.prefix for each in (web, db, *db.backends)] == ["service[0].", "service[1].", "service[1].backend[0]."]


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("monitor = 6666", "monitors", (("", 6666),)),
        ('monitor = ["[::1]:5555", "10.1.1.10:5555"]', "monitors", (("::1", 5555), ("10.1.1.10", 5555))),
        ('allow = ["10.0.0.0/8", "2001:db8::/32"]', "allow", (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))),
        ("max-backends = 5000", "limits", Limits.for_pool(5000)),
        ("probe-interval = 1.5", "timing", Timing(1.5)),
        ("probe-timeout = 1", "timing", Timing(probe_timeout_s=1)),
        ("liveness = 20", "timing", Timing(liveness_s=20)),
        ('freshness = "off"', "timing", Timing(freshness_s=None)),
        ("freshness = 0.25", "timing", Timing(freshness_s=0.25)),
        ("probe-budget = 2000", "timing", Timing(probe_budget=2000)),
        ('carrier = "portable"', "carrier", "portable"),
        ("max-connections = 50", "max_connections", 50),
        ('state-file = ""', "state_file", None),
        ('admin = "localhost:8081"', "admin_names", ("localhost",)),
        ("freebind = true", "freebind", True),
        ("trace = true", "trace", True),
        ("demo = 2", "demo", 2),
        ("drain-timeout = 0", "drain_timeout_s", 0),
        ("reuse-port = true", "reuse_port", True),
    ],
)
def test_each_key_of_the_process_is_taken(tmp_path: Path, text: str, name: str, value: object) -> None:
    allow = () if "allow" in text else ANY_HOST
    assert getattr(file_config(tmp_path, f"[proxy]\n{text}", allow=allow), name) == value


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ('name = "web"', "name", "web"),
        ("backend-port = 8000", "backend_port", 8000),
        ("backend-port = 8000", "service_port", 8000),
        ('from = "10.1.1.0/24"', "allow", (ip_network("10.1.1.0/24"),)),
        ('policy = "random"', "policy", "random"),
        ('policy = { name = "report", saturation = 0.9 }', "policy_options", {"saturation": 0.9}),
        ('shadow = "p2c"', "shadow", "p2c"),
        ('shadow = { name = "p2c", choices = 3 }', "shadow", "p2c"),
        ('shadow = { name = "p2c", choices = 3 }', "shadow_options", {"choices": 3}),
        ('shadow = "none"', "shadow", None),
        ('saturation = "off"', "saturation", None),
        ("idle-timeout = 60", "idle_timeout_s", 60),
        ("half-close-timeout = 0", "half_close_timeout_s", 0),
        ('on-down = "keep"', "end_on_down", False),
        ("wait-for-backend = 0.5", "wait_s", 0.5),
        ('redispatch-early = "unsent"', "redispatch", Redispatch.UNSENT),
        ("first-byte = 10", "first_byte_s", 10),
        ("max-connections = 7", "max_connections", 7),
        ('clients = ["10.0.0.0/8", "::1"]', "clients", (ip_network("10.0.0.0/8"), ip_network("::1/128"))),
        ('deny = "10.1.0.0/16"', "deny", (ip_network("10.1.0.0/16"),)),
        ("max-connections-per-client = 10", "max_connections_per_client", 10),
        ("connections-per-second-per-client = 0.5", "connections_per_second_per_client", 0.5),
        ('affinity = "source"', "affinity", "source"),
        ('affinity = "none"', "affinity", None),
        ('proxy-protocol-from = ["10.0.0.0/8"]', "proxy_protocol_from", (ip_network("10.0.0.0/8"),)),
        ("send-proxy = 1", "send_proxy", 1),
        ('source = "10.1.1.10"', "source", ("10.1.1.10",)),
        ('source = ["10.1.1.10", "2001:DB8::1"]', "source", ("10.1.1.10", "2001:db8::1")),
        ('source = "client"', "source", ("client",)),
        ("send-tls = true", "send_tls", SendTlsConfig()),
        ("send-tls = false", "send_tls", None),
        (
            'send-tls = { verify = false, server-name = "db.example", alpn = "h2" }',
            "send_tls",
            SendTlsConfig(verify=False, server_name="db.example", alpn=("h2",)),
        ),
        ("[service.backends]\nqueue = 0", "each", BackendLimits(None, 0, 5)),
        (
            '[[service.backend]]\naddress = "db.example:5432"\nmax-connections = 5\nsend-proxy = 0\ncheck = "none"\n'
            '[[service.backend]]\naddress = "[::1]:5432"\ncheck = "agent-check:9000"',
            "backends",
            (
                BackendConfig(("db.example", 5432), check="none", max_connections=5, send_proxy=0),
                BackendConfig(("::1", 5432), check="agent-check:9000"),
            ),
        ),
    ],
)
def test_each_key_of_a_service_is_taken(tmp_path: Path, text: str, name: str, value: object) -> None:
    assert getattr(only_service(tmp_path, text), name) == value


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    for name in ("a.pem", "b.pem", "a.key", "b.key", "ca.pem"):
        (tmp_path / name).write_text("PEM")
    return tmp_path


def test_certificates_have_their_own_keys_or_are_in_one_file_with_them(pem: Path) -> None:
    a, b = str(pem / "a.pem"), str(pem / "b.pem")
    text = """[service.tls]
        certificate = ["a.pem", "b.pem"]
        key = ["a.key", "b.key"]
        alpn = ["h2", "http/1.1"]
        min-version = "1.3"
        client-ca = "ca.pem"
    """
    tls = only_service(pem, text).tls
    files = ((a, str(pem / "a.key")), (b, str(pem / "b.key")))
    assert tls == TlsConfig(files, ("h2", "http/1.1"), "1.3", str(pem / "ca.pem"))
    assert only_service(pem, f'tls = {{ certificate = "{a}" }}').tls == TlsConfig(((a, a),))
    send = only_service(pem, 'send-tls = { certificate = "a.pem", ca = "ca.pem" }').send_tls
    assert send == SendTlsConfig(ca=str(pem / "ca.pem"), certificate=a, key=a)


def test_a_single_listener_may_have_tls(pem: Path) -> None:
    text = '[[service]]\nlisten = ["80", { address = 443, tls = { certificate = "a.pem" } }, { address = "[::1]:81" }]'
    (service,) = file_config(pem, text).services
    assert service.listen == ("80", "443", "[::1]:81")
    assert service.listen_tls == {"443": TlsConfig(((str(pem / "a.pem"), str(pem / "a.pem")),))}


def test_paths_in_a_file_are_relative_to_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key_file(tmp_path, FIRST, name="own.keys")
    toml(tmp_path, '[proxy]\nkeyring = "own.keys"\nstate-file = "state"')
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = parsed("--config", f"../{NAME}", allow=()).config
    assert (config.file, config.state_file) == (str(tmp_path / NAME), str(tmp_path / "state"))


EVERYTHING_WRONG = """
listen = "80"
[proxy]
monitor = ["5555", 7, "x"]
probe_interval = 3
keyrng = "a"
demo = true
saturation = 0.5
liveness = nan
[[service]]
listen = "80"
policy = { name = "report", saturated = 0.9 }
[service.backends]
queue = -1
queue-timeout = "x"
[[service]]
listen = [99999, { tls = { certificate = "x.pem", kee = 2 } }, { address = 443, tls = 1 }, 1.5]
clients = ["10.0.0.0/8", "10.0.0.5/24"]
policy = "best"
idle-timeout = 0.001
send-tls = { key = "x.pem" }
[[service.backend]]
address = "10.1.1.9"
check = "agent-check"
[[services]]
"""


def test_all_errors_are_told_at_once_each_with_the_path_of_its_key(tmp_path: Path) -> None:
    lines = errors_of(tmp_path, EVERYTHING_WRONG)
    assert sorted(line.removeprefix(f"{NAME}: ") for line in lines) == sorted(
        [
            "listen: there is no such key here; it is one of [[service]]",
            "services: there is no such key; do you mean service?",
            'proxy.monitor[2]: "x" is not of the form [HOST:]PORT (an IPv6 address in brackets)',
            "proxy.probe_interval: there is no such key; do you mean probe-interval?",
            "proxy.keyrng: there is no such key; do you mean keyring?",
            "proxy.demo: must be a whole number from 0 to 100, not true",
            "proxy.saturation: there is no such key here; it is one of [[service]]",
            "proxy.liveness: nan is not a number",
            'service[0].policy: "report": no option saturated; there are saturation',
            "service[0].backends.queue: must be from 0 to 1000000, not -1",
            'service[0].backends.queue-timeout: must be 0, or a number from 0.01 to 3600, not "x"',
            "service[1].listen[0]: port 99999 is above 65535",
            "service[1].listen[1].address: is missing",
            f'service[1].listen[1].tls.certificate: "{tmp_path}/x.pem": No such file or directory',
            "service[1].listen[1].tls.kee: there is no such key; do you mean key?",
            "service[1].listen[2].tls: must be a table with certificate, not 1",
            "service[1].listen[3]: must be PORT, HOST:PORT, a Twisted server endpoint string or a table with address, "
            "not 1.5",
            "service[1].clients[1]: 10.0.0.5/24 has host bits set",
            'service[1].policy: "best": no such policy; there are expected-delay, report, round-robin, '
            "least-connections, random, weighted-random, p2c, peak-ewma, prequal",
            "service[1].idle-timeout: must be 0, or from 0.01 to 2592000, not 0.001",
            f'service[1].send-tls.key: "{tmp_path}/x.pem": No such file or directory',
            'service[1].backend[0].address: "10.1.1.9" is not of the form HOST:PORT (an IPv6 address in brackets)',
            'service[1].backend[0].check: must be "connect", "none" or "agent-check:PORT"',
        ]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[proxy]]", "proxy: must be a table, not a list"),
        ("proxy = 3", "proxy: must be a table, not 3"),
        ("[service]", "service: must be a list of tables: [[service]], in two brackets"),
        ("service = [3]", "service[0]: must be a table, not 3"),
        ('"a\\u0000b" = 1', '"a\\u0000b": there is no such key; rproxy docs configuration lists them'),
        (
            '"' + "x" * 5000 + '" = 1',
            f'"{"x" * 64}\\u2026": there is no such key; rproxy docs configuration lists them',
        ),
        ("[proxy]\nMONITOR = 1", "proxy.MONITOR: there is no such key; do you mean monitor?"),
        ("[proxy]\nmonitor = []", "proxy.monitor: names no port"),
        ("[proxy]\nallow = []", "proxy.allow: names no network; leave the key out for its default"),
        ("[proxy]\nmonitor = [[1]]", "proxy.monitor[0]: must be [HOST:]PORT, not a list"),
        ("[proxy]\nmonitor = 1979-05-27", "proxy.monitor: must be [HOST:]PORT, not 1979-05-27"),
        ("[proxy]\ntrace = 1", "proxy.trace: must be true or false, not 1"),
        ('[proxy]\ntrace = "yes"', 'proxy.trace: must be true or false, not "yes"'),
        ("[proxy]\nprobe-interval = true", "proxy.probe-interval: must be a number from 0.01 to 3600, not true"),
        ('[proxy]\nprobe-interval = "5"', 'proxy.probe-interval: must be a number from 0.01 to 3600, not "5"'),
        ("[proxy]\nprobe-interval = inf", "proxy.probe-interval: inf is not a number"),
        ("[proxy]\ndemo = 1.0", "proxy.demo: must be a whole number from 0 to 100, not 1.0"),
        ("[proxy]\ndemo = -1", "proxy.demo: must be from 0 to 100, not -1"),
        (
            "[proxy]\ndemo = 0x" + "f" * 9999,
            "proxy.demo: must be a whole number from 0 to 100, not a number of so many digits",
        ),
        ('[proxy]\nkeyring = ""', "proxy.keyring: no file is named"),
        ("[proxy]\nkeyring = {}", "proxy.keyring: must be the path of a file, not a table"),
        ('[proxy]\nadmin = ":8081"', 'proxy.admin: ":8081" is not of the form HOST:PORT (an IPv6 address in brackets)'),
        ('[proxy]\ncarrier = "fast"', 'proxy.carrier: must be auto, splice or portable, not "fast"'),
        (
            '[proxy]\ncarrier = "' + "x" * 5000 + '"',
            f'proxy.carrier: must be auto, splice or portable, not "{"x" * 200}…"',
        ),
        ('[proxy]\ncarrier = "a\\nb"', r'proxy.carrier: must be auto, splice or portable, not "a\nb"'),
    ],
)
def test_a_broken_table_or_key_of_the_process_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    assert error_of(tmp_path, text) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = ""', 'name: must be 1 to 64 printable characters, not ""'),
        ('name = ".."', 'name: must be another name, since a path may not have this one, not ".."'),
        ('name = "a\\tb"', r'name: must be 1 to 64 printable characters, not "a\tb"'),
        ("policy = {}", 'policy: must have a name, as in { name = "report", saturation = 0.9 }'),
        ("policy = { name = 3 }", 'policy: must have a name, as in { name = "report", saturation = 0.9 }'),
        ("policy = 3", 'policy: must be the name of a policy, or a table such as { name = "report" }, not 3'),
        (
            'policy = { name = "report", saturation = 9 }',
            'policy: "report": option saturation=9: must be from 0.001 to 1, or off',
        ),
        ("backend-port = 0", "backend-port: must be from 1 to 65535, not 0"),
        ("send-proxy = 3", "send-proxy: must be from 0 to 2, not 3"),
        ("send-proxy = true", "send-proxy: must be a whole number from 0 to 2, not true"),
        ("max-connections = 0", "max-connections: must be from 1 to 1000000, not 0"),
        ('source = ["client", "10.1.1.10"]', 'source: "client" stands alone'),
        ('source = "0.0.0.0"', 'source: "0.0.0.0" is not an address to connect from'),
        ('source = "eth0"', 'source: "eth0" is not an IP address'),
        ("clients = [1]", "clients[0]: must be a network such as 10.1.1.0/24, or an IP address, not 1"),
        ("[service.backend]", "backend.address: is missing"),
        ("from = []", "from: names no network; leave the key out for its default"),
        ("clients = []", "clients: names no network; leave the key out for its default"),
        ("proxy-protocol-from = []", "proxy-protocol-from: names no network; leave the key out for its default"),
        ("[[service.backend]]", "backend[0].address: is missing"),
        (
            '[[service.backend]]\naddress = "/run/db.sock:1"',
            'backend[0].address: "/run/db.sock:1": its host is not a host name',
        ),
        (
            '[[service.backend]]\naddress = "a\\u0000b:1"',
            r'backend[0].address: "a\x00b:1": its host is not a host name',
        ),
        ('backend = "10.1.1.9:80"', 'backend: must be a table, not "10.1.1.9:80"'),
        ('[[service.backend]]\naddress = "a:0"', 'backend[0].address: "a:0": port 0 is none to connect to'),
        ('[[service.backend]]\naddress = "10.1.1:80"', 'backend[0].address: "10.1.1:80": 10.1.1 is not an IP address'),
        (
            '[[service.backend]]\naddress = "a:1"\nweight = 0',
            "backend[0].weight: must be from 1 to 65535, not 0",
        ),
        (
            '[[service.backend]]\naddress = "a:1"\ncheck = "agent-check:99999"',
            'backend[0].check: must be from 1 to 65535, not "99999"',
        ),
        (
            '[[service.backend]]\naddress = "a:1"\n[[service.backend]]\naddress = "a:1"',
            'backend[1].address: "a:1": this back-end is given twice',
        ),
        (
            '[[service.backend]]\naddress = "a.test:1"\n[[service.backend]]\naddress = "A.Test:1"',
            'backend[1].address: "A.Test:1": this back-end is given twice',
        ),
        ("[service.backends]\nmax-connections = 0", "backends.max-connections: must be from 1 to 1000000, not 0"),
        (
            "[service.backends]\naddress = 1",
            "backends.address: there is no such key here; it is one of [[service.backend]]",
        ),
        ("[[service.backends]]", "backends: must be a table, not a list"),
        ("tls = true", "tls: must be a table with certificate, not true"),
        ("tls = {}", "tls.certificate: is missing"),
        ("tls = { certificate = [] }", "tls.certificate: names no file"),
        (
            'tls = { certificate = "a.pem", key = ["a.key", "b.key"] }',
            "tls.key: must be as many files as those of certificate",
        ),
        ('tls = { certificate = "a.pem", min-version = "1.1" }', 'tls.min-version: must be 1.2 or 1.3, not "1.1"'),
        (
            'tls = { certificate = "a.pem", alpn = ["h 2"] }',
            'tls.alpn[0]: "h 2" is not the name of a protocol, such as h2 or http/1.1',
        ),
        ('send-tls = { key = "a.key" }', "send-tls.key: is of use only with certificate"),
        (
            'send-tls = { server-name = "a b" }',
            'send-tls.server-name: "a b" is not a host name',
        ),
        ("send-tls = 1", "send-tls: must be true or false, or a table, not 1"),
    ],
)
def test_a_broken_key_of_a_service_is_one_line(pem: Path, text: str, message: str) -> None:
    assert error_of(pem, f'[[service]]\nlisten = "80"\n{text}') == f"service[0].{message}"


@pytest.mark.parametrize(
    ("listen", "message"),
    [
        ("[]", "listen: names no address"),
        ("99999", "listen: port 99999 is above 65535"),
        ('["80", 80]', 'listen[1]: "80": this port is given twice'),
        ('["80", "080"]', 'listen[1]: "080": this port is given twice'),
        ('["127.0.0.1:80", "[::ffff:127.0.0.1]:80"]', 'listen[1]: "[::ffff:127.0.0.1]:80": this port is given twice'),
        ('""', 'listen: "" is not of the form [HOST:]PORT (an IPv6 address in brackets)'),
        ('["10.1.1.10:99999"]', 'listen[0]: "10.1.1.10:99999": port 99999 is above 65535'),
        (
            '"ssl:443:privateKey=/nonexistent.pem"',
            'listen: "ssl:443:privateKey=/nonexistent.pem": /nonexistent.pem: No such',
        ),
        ('["tcp:80:nope=1"]', 'listen[0]: "tcp:80:nope=1": tcp: takes no nope='),
        ('["tcp:99999"]', 'listen[0]: "tcp:99999": port 99999 is above 65535'),
        ('["tcp:-1"]', 'listen[0]: "tcp:-1": port -1 is below 0'),
        ('["unix:"]', "listen[0]: unix: lacks its path"),
        ('["１２:80"]', 'listen[0]: "１２:80": its host is not a host name'),  # noqa: RUF001 - digits of another kind
        ("{}", "listen.address: is missing"),
        ("{ address = true }", "listen.address: must be PORT, HOST:PORT or an endpoint, not true"),
    ],
)
def test_a_listener_that_cannot_be_is_told_without_opening_any(tmp_path: Path, listen: str, message: str) -> None:
    assert error_of(tmp_path, f"[[service]]\nlisten = {listen}").startswith(f"service[0].{message}")


PATHS = [
    ("[proxy]", ["keyring", "admin-token-file", "state-file", "access-log"]),
    ("[service.tls]", ["certificate", "key", "client-ca"]),
    ("[service.send-tls]", ["certificate", "key", "ca"]),
]


@pytest.mark.parametrize(("table", "key"), [(table, key) for table, keys in PATHS for key in keys])
def test_a_path_with_a_nul_is_an_error_as_any_other(tmp_path: Path, table: str, key: str) -> None:
    lines = errors_of(tmp_path, f'[[service]]\nlisten = "80"\n{table}\n{key} = "a\\u0000b"')
    assert [line for line in lines if "NUL" in line] == [
        f'{NAME}: {table.strip("[]").replace("service", "service[0]")}.{key}: "a\\x00b": a path has no NUL characters'
    ]


def test_so_is_one_behind_a_prefix(tmp_path: Path) -> None:
    assert error_of(tmp_path, '[proxy]\nadmin = "unix:a\\u0000b"') == (
        'proxy.admin: "unix:a\\x00b": a path has no NUL characters'
    )


@pytest.mark.parametrize("listener", ["unix:web.sock", "systemd:domain=UNIX:name=web"])
def test_two_services_with_one_socket_are_an_error(tmp_path: Path, listener: str) -> None:
    text = f'[[service]]\nname = "a"\nlisten = "{listener}"\n[[service]]\nname = "b"\nlisten = "{listener}"\n'
    assert error_of(tmp_path, text) == (
        f'service[1].listen[0]: "{listener}": service[0].listen[0] accepts these clients'
    )


def test_a_thousand_services_cost_no_more_than_their_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the types of endpoints nor the readers of tables are made for each."""
    plugins = Mock(return_value=[])
    makers = Mock(side_effect=make_dict_structure_fn)
    monkeypatch.setattr(endpoints, "getPlugins", plugins)
    monkeypatch.setattr(toml_file, "make_dict_structure_fn", makers)
    endpoints._types.cache_clear()
    try:
        services = [f'[[service]]\nname = "{port}"\nlisten = "127.0.0.1:{port}"' for port in range(20000, 21000)]
        assert len(file_config(tmp_path, "\n".join(services)).services) == 1000
    finally:
        endpoints._types.cache_clear()
    assert plugins.call_count == 1
    assert makers.call_count < 20


def test_of_very_many_errors_the_first_hundred_are_told(tmp_path: Path) -> None:
    lines = errors_of(tmp_path, "\n".join(f"x{number} = 1" for number in range(250)))
    assert len(lines) == 101
    assert lines[-1] == f"{NAME}: and 150 more errors"


@pytest.mark.parametrize(
    "line",
    [
        "send-proxy = 1",
        'proxy-protocol-from = "10.0.0.0/8"',
        '[[service.backend]]\naddress = "10.1.1.1:80"\nsend-proxy = 2',
    ],
)
def test_twisteds_listeners_for_proxy_headers_do_not_go_with_our_own(tmp_path: Path, line: str) -> None:
    listener = "haproxy:tcp:80"
    assert error_of(tmp_path, f'[[service]]\nlisten = ["{listener}"]\n{line}\n') == (
        f'service[0].listen[0]: "{listener}": a listener without haproxy:, and proxy-protocol-from, read the headers '
        "of such a service"
    )


def test_alone_they_are_listeners_like_others(tmp_path: Path) -> None:
    assert file_config(tmp_path, '[[service]]\nlisten = "haproxy:tcp:80"\n').services[0].listen == ("haproxy:tcp:80",)
