"""The command `rproxy`, which makes keys."""

from __future__ import annotations

import functools
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from rproxy.config.keyfile import read_keys
from rproxy.tap.command import main
from rproxy.tap.keygen import new_key
from rproxy.wire.keyfile import format_key, parse_keys
from rproxy.wire.pdu import MalformedPdu
from rproxy.wire.seal import Key, Sealed
from tests.config.keyfiles import (
    AGENT,
    BROKEN,
    FIRST,
    OWN,
    PDU,
    SECOND,
    Damage,
    key_file,
    mode_of,
    opens,
    shows_a_key,
    text_file,
)
from tests.wire.test_pdu import VECTORS

Captured = pytest.CaptureFixture[str]


def printed(capfd: Captured, *arguments: str) -> str:
    """What the command prints, all of it, where it ends well."""
    assert main(["keygen", *arguments]) == 0
    output = capfd.readouterr()
    assert output.err == ""
    return output.out


def message_of(capfd: Captured, *arguments: str) -> str:
    """The last line of what it says where it does not; it prints no key then."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    output = capfd.readouterr()
    assert (ended.value.code, output.out) == (2, "")
    assert not shows_a_key(output.err)
    return output.err.splitlines()[-1]


def test_a_new_key_is_one_line_of_a_key_file_and_nothing_more(capfd: Captured) -> None:
    text = printed(capfd)
    assert re.fullmatch(r"1 [0-9a-f]{64}\n", text)
    (key,) = parse_keys(text)
    assert (key.id, len(key.secret), key.is_derived) == (1, 32, False)


def test_every_new_key_is_another(capfd: Captured) -> None:
    assert len({printed(capfd) for _ in range(20)}) == 20


@pytest.mark.parametrize(
    ("known", "number"), [([1], 2), ([2], 1), ([1, 2, 3], 4), ([3, 1], 2), ([0], 1), ([*range(255)], 255)]
)
def test_a_new_key_has_an_id_that_the_file_lacks(
    capfd: Captured, tmp_path: Path, known: list[int], number: int
) -> None:
    path = key_file(tmp_path, *(Key(each, FIRST.secret) for each in known))
    text = printed(capfd, "--keyring", str(path))
    assert re.fullmatch(rf"{number} [0-9a-f]{{64}}\n", text)


def test_a_new_key_can_be_added_to_the_file_and_the_old_one_goes_on(capfd: Captured, tmp_path: Path) -> None:
    path = key_file(tmp_path, FIRST)
    with path.open("a") as file:
        file.write(printed(capfd, "--keyring", str(path)))
    both = read_keys(str(path), derived=False)
    assert [key.id for key in both] == [FIRST.id, 1]
    assert opens(Sealed(both), FIRST)
    assert opens(Sealed(both), both[1])


def test_where_every_id_is_taken_there_is_no_new_key(capfd: Captured, tmp_path: Path) -> None:
    path = key_file(tmp_path, *(Key(each, FIRST.secret) for each in range(256)))
    message = message_of(capfd, "keygen", "--keyring", str(path))
    assert message == f"rproxy keygen: error: --keyring {path}: there is no key id left"


def test_the_last_id_that_is_free_is_found() -> None:
    for free in range(1, 256):
        taken = [Key(each, FIRST.secret) for each in range(256) if each != free]
        assert new_key(taken).id == free


@pytest.mark.parametrize(
    ("given", "agent"),
    [
        ("10.1.1.1", "10.1.1.1"),
        ("2001:db8::5", "2001:db8::5"),
        ("2001:0DB8:0::0:5", "2001:db8::5"),
        ("::ffff:10.1.1.1", "10.1.1.1"),
        ("255.255.255.255", "255.255.255.255"),
        ("::1", "::1"),
    ],
)
def test_an_agents_key_is_its_whole_key_file_and_works_at_its_address_alone(
    capfd: Captured, tmp_path: Path, given: str, agent: str
) -> None:
    path = key_file(tmp_path, SECOND, FIRST)
    text = printed(capfd, "--agent", given, "--keyring", str(path))
    assert re.fullmatch(r"# for the agent at [0-9a-f.:]+\n8 agent:[0-9a-f]{64}\n", text)
    own = Sealed(read_keys(str(text_file(tmp_path, text, name="own")), derived=True))
    proxy = Sealed(read_keys(str(path), derived=False))
    assert proxy.open(own.seal(PDU, agent), agent) == PDU
    assert own.open(proxy.seal(PDU, agent), agent) == PDU
    with pytest.raises(MalformedPdu, match=r"^seal$"):
        proxy.open(own.seal(PDU, "10.1.1.2"), "10.1.1.2")


@pytest.mark.parametrize("vector", VECTORS["keyed"][:2], ids=lambda vector: vector["agent_ip"])
def test_an_agents_key_is_that_of_the_protocols_vectors(
    capfd: Captured, tmp_path: Path, vector: dict[str, str]
) -> None:
    path = text_file(tmp_path, f"{VECTORS['key_id']} {VECTORS['master_key']}\n")
    lines = printed(capfd, "--keyring", str(path), "--agent", vector["agent_ip"]).splitlines()
    assert lines == [f"# for the agent at {vector['agent_ip']}", f"{VECTORS['key_id']} agent:{vector['agent_key']}"]


@pytest.mark.parametrize(("options", "number"), [([], 8), (["--id", "8"], 8), (["--id", "7"], 7)])
def test_an_agents_key_is_derived_from_the_first_key_or_the_one_with_that_id(
    capfd: Captured, tmp_path: Path, options: list[str], number: int
) -> None:
    """During a rotation, agents must have the new key before it is the proxy's first."""
    path = key_file(tmp_path, SECOND, FIRST)
    (key,) = parse_keys(printed(capfd, "--agent", AGENT, "--keyring", str(path), *options))
    (master,) = (each for each in (SECOND, FIRST) if each.id == number)
    assert (key.id, key.secret, key.is_derived) == (number, master.derive(AGENT), True)


def test_an_agents_key_is_not_derived_from_a_key_that_is_not_there(capfd: Captured, tmp_path: Path) -> None:
    path = key_file(tmp_path, SECOND, FIRST)
    line = message_of(capfd, "keygen", "--agent", AGENT, "--keyring", str(path), "--id", "9")
    assert line == f"rproxy keygen: error: --keyring {path}: there is no key with the id 9 in it"


def test_an_agents_key_is_the_same_each_time(capfd: Captured, tmp_path: Path) -> None:
    path = key_file(tmp_path, FIRST)
    assert len({printed(capfd, "--agent", AGENT, "--keyring", str(path)) for _ in range(3)}) == 1


def test_an_agents_key_reveals_neither_the_master_key_nor_another_agents(capfd: Captured, tmp_path: Path) -> None:
    path = key_file(tmp_path, FIRST)
    assert not shows_a_key(printed(capfd, "--agent", AGENT, "--keyring", str(path)))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "COMMAND"),
        (["keygem"], "keygem"),
        (["--keyring", "keys"], "COMMAND"),
        (["keygen", "keys"], "keys"),
        (["keygen", "--agnet", "10.1.1.1"], "--agnet"),
        (["keygen", "--keyring"], "--keyring"),
        (["keygen", "--agent", "10.1.1.1"], "--agent needs --keyring FILE"),
        (["keygen", "--keyring", "keys", "--id", "1"], "--id is of use only with --agent"),
        (["keygen", "--keyring", "keys", "--agent", "10.1.1.1", "--id", "new"], "'new'"),
        *(
            (["keygen", "--keyring", "keys", "--agent", agent], f"--agent: {agent!r} is not an IP address")
            for agent in ["proxy.example", "10.1.1", "10.1.1.256", "10.1.1.0/24", "[::1]", "10.1.1.1:5555", "", " "]
        ),
    ],
)
def test_wrong_arguments_end_with_status_2_and_nothing_is_printed(
    capfd: Captured, arguments: list[str], named: str
) -> None:
    assert named in message_of(capfd, *arguments)


@pytest.mark.parametrize("arguments", [[], ["--agent", AGENT]], ids=["new", "agent"])
@BROKEN
def test_a_broken_file_is_reported_and_nothing_is_printed(
    capfd: Captured, tmp_path: Path, damage: Damage, reason: str, arguments: list[str]
) -> None:
    path = key_file(tmp_path, FIRST)
    damage(path)
    line = message_of(capfd, "keygen", "--keyring", str(path), *arguments)
    assert line.startswith(f"rproxy keygen: error: --keyring {path}: {reason}")


def test_an_agents_key_does_not_come_from_another_agents(capfd: Captured, tmp_path: Path) -> None:
    line = message_of(capfd, "keygen", "--agent", AGENT, "--keyring", str(key_file(tmp_path, OWN)))
    assert line.endswith("it has an agent's key: a proxy needs the master key that it was derived from")


@pytest.mark.parametrize("arguments", [["--agent", AGENT], []], ids=["agent", "new"])
def test_a_key_file_without_a_name_is_no_key_file(capfd: Captured, arguments: list[str]) -> None:
    """An unset variable in a shell."""
    assert "--keyring" in message_of(capfd, "keygen", "--keyring", "", *arguments)


@pytest.mark.parametrize("arguments", [["--help"], ["keygen", "--help"]])
def test_the_help_is_printed(capfd: Captured, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    text = capfd.readouterr().out
    assert not ended.value.code
    assert "keygen" in text
    for option in ("--agent", "--keyring", "--id"):
        assert (option in text) is ("keygen" in arguments)


def redirected(path: Path, monkeypatch: pytest.MonkeyPatch, *, mode: str = "w") -> None:
    with path.open(mode) as file, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", file)
        assert main(["keygen"]) == 0


@pytest.mark.parametrize("before", [0o644, 0o666, 0o600, 0o755])
def test_a_file_that_it_is_redirected_to_is_its_owners_alone_and_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int
) -> None:
    path = text_file(tmp_path, "", mode=before)
    redirected(path, monkeypatch)
    assert mode_of(path) == 0o600
    (key,) = read_keys(str(path), derived=False)
    assert key.id == 1


def test_a_file_that_it_is_added_to_keeps_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = text_file(tmp_path, f"{format_key(FIRST)}\n", mode=0o640)
    redirected(path, monkeypatch, mode="a")
    assert [key.id for key in read_keys(str(path), derived=False)] == [FIRST.id, 1]


def test_what_is_no_file_keeps_its_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    null = Path(os.devnull)
    before = mode_of(null)
    changed: list[object] = []
    monkeypatch.setattr(os, "fchmod", lambda *arguments: changed.append(arguments))
    redirected(null, monkeypatch)
    assert (mode_of(null), changed) == (before, [])


def test_another_users_file_gets_the_key_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def not_ours(*_: object) -> NoReturn:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchmod", not_ours)
    path = text_file(tmp_path, "", mode=0o644)
    redirected(path, monkeypatch)
    assert mode_of(path) == 0o644
    assert len(parse_keys(path.read_text())) == 1


@pytest.mark.parametrize("umask", [0o022, 0o000, 0o277])
def test_a_file_that_it_makes_is_its_owners_alone_and_can_be_used(
    capfd: Captured, tmp_path: Path, umask: int, request: pytest.FixtureRequest
) -> None:
    request.addfinalizer(functools.partial(os.umask, os.umask(umask)))
    path = tmp_path / "keys"
    assert printed(capfd, "--out", str(path)) == ""
    assert (mode_of(path), len(read_keys(str(path), derived=False))) == (0o600, 1)
    agents = tmp_path / "agent"
    assert printed(capfd, "--agent", AGENT, "--keyring", str(path), "--out", str(agents)) == ""
    assert (mode_of(agents), len(read_keys(str(agents), derived=True))) == (0o600, 1)


def test_a_file_is_never_readable_by_others_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    write = os.write

    def noted(descriptor: int, data: bytes) -> int:
        modes.append(os.fstat(descriptor).st_mode & 0o777)
        return write(descriptor, data[:10])

    monkeypatch.setattr(os, "write", noted)
    assert main(["keygen", "--out", str(tmp_path / "keys")]) == 0
    assert set(modes) == {0o600}
    assert len(read_keys(str(tmp_path / "keys"), derived=False)) == 1


def failed(*arguments: str, **how: Any) -> str:
    """What it says where it cannot write, which is one line."""
    command = [sys.executable, "-m", "rproxy", "keygen", *arguments]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, timeout=60, **how)
    assert done.returncode == 1
    line: str
    (line,) = done.stderr.splitlines()
    assert line.startswith("rproxy keygen: error: ")
    return line.removeprefix("rproxy keygen: error: ")


@pytest.mark.parametrize("there", ["file", "folder", "dangling link"])
def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path, there: str) -> None:
    path = tmp_path / "keys"
    if there == "file":
        path.write_text("mine")
    elif there == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    assert failed("--out", str(path)) == f"{path}: File exists"
    assert there != "file" or path.read_text() == "mine"
    assert not tmp_path.joinpath("nowhere").exists()


def test_a_file_that_cannot_be_written_whole_is_not_left(tmp_path: Path) -> None:
    limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (20, 20))
    assert failed("--out", str(tmp_path / "keys"), preexec_fn=limit) == f"{tmp_path}/keys: File too large"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "keys"
    assert failed("--out", str(path)) == f"{path}: No such file or directory"


def test_standard_output_that_is_closed_is_one_line() -> None:
    assert failed(preexec_fn=functools.partial(os.close, 1)) == "standard output: it is closed"


def test_standard_output_that_is_full_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        assert failed(stdout=full) == "standard output: No space left on device"


def test_unread_standard_output_is_one_line() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert failed(stdout=writer) == "standard output: Broken pipe"
    finally:
        os.close(writer)


@pytest.mark.parametrize("arguments", [[], ["--listen", "80"], ["proxy"]])
def test_a_call_for_the_proxy_is_answered_with_its_command(capfd: Captured, arguments: list[str]) -> None:
    assert message_of(capfd, *arguments).endswith(
        "; the proxy itself is 'twistd rproxy', its agent 'twistd rproxy-agent'"
    )


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (["status", "--srot", "cpu"], "--srot; do you mean --sort?"),
        (["drain", "10.1.1.2:80", "--servcie=web"], "--servcie=web; do you mean --service?"),
        (["study", "--polcies", "p2c"], "--polcies; do you mean --policies?"),
        (["reload", "now"], "now"),
    ],
)
def test_a_wrong_option_is_answered_by_its_command(capfd: Captured, arguments: list[str], answer: str) -> None:
    assert message_of(capfd, *arguments) == f"rproxy {arguments[0]}: error: unrecognized arguments: {answer}"


def test_it_prints_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert not ended.value.code
    assert re.fullmatch(r"rproxy [0-9.]+ \(Twisted [0-9.]+, Python [0-9.a-z+]+\)\n", capsys.readouterr().out)


def test_it_is_a_module_that_can_be_run_and_be_redirected(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    with path.open("w") as file:
        command = [sys.executable, "-m", "rproxy", "keygen"]
        done = subprocess.run(command, stdout=file, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr, mode_of(path)) == (0, "", 0o600)
    assert len(read_keys(str(path), derived=False)) == 1


def test_run_as_a_module_it_ends_with_status_2_for_wrong_arguments() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rproxy", "keygen", "--agent", AGENT],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("rproxy keygen: error: --agent needs --keyring FILE, the proxy's key file\n")


def test_what_operators_call_often_does_not_import_twisted() -> None:
    command = "from rproxy.tap.command import main; main(['status', '127.0.0.1:1'])"
    code = f"import sys; {command}; print('twisted' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"
    assert "Connection refused" in done.stderr
