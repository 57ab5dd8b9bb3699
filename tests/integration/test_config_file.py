"""`twistd rproxy --config FILE`: a proxy that runs as the file says, and what a broken one comes to."""

from __future__ import annotations

from pathlib import Path

from rproxy.config.toml_file import starting_file
from tests.integration.addresses import LOOPBACK
from tests.integration.agents import greeting, serve, start_agent, wait_until_up
from tests.integration.conftest import Starter, Variant, every_carrier
from tests.integration.logs import failures
from tests.integration.twistd import run_twistd

pytestmark = every_carrier


def written(folder: Path, text: str) -> str:
    path = folder / "rproxy.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_proxy_runs_as_its_file_says(start: Starter, variant: Variant) -> None:
    listen = f'listen = ["{LOOPBACK}:0", "tcp:0:interface={LOOPBACK}"]'
    text = f'[proxy]\ncarrier = "{variant.carrier}"\n[[service]]\nname = "web"\n{listen}\n'
    proxy = start.proxy("--config", written(start.folder, text))
    service = serve(start, b"word")
    start_agent(start, proxy, service)
    wait_until_up(proxy, service)
    assert len(proxy.listeners) == 2
    assert greeting(proxy) == b"word"
    proxy.stop()
    assert failures(proxy.log) == []


def test_a_broken_file_is_a_line_for_each_error_and_no_traceback(tmp_path: Path, variant: Variant) -> None:
    text = "[proxy]\nmonitr = 1\n[[service]]\nlisten = 80\n[[service]]\nlisten = [99999]\n"
    done = run_twistd(tmp_path, "rproxy", "--config", written(tmp_path, text), *variant.options)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    assert done.stderr.splitlines() == [
        f"twistd rproxy: {tmp_path}/rproxy.toml: proxy.monitr: there is no such key; do you mean monitor?",
        f"twistd rproxy: {tmp_path}/rproxy.toml: service[1].listen[0]: port 99999 is above 65535",
    ]


def test_the_starting_file_works_as_it_is(start: Starter, variant: Variant) -> None:
    text = starting_file()
    proxy = start.proxy("--config", written(start.folder, text), "--listen", f"{LOOPBACK}:0", *variant.options)
    service = serve(start, b"word")
    start_agent(start, proxy, service)
    wait_until_up(proxy, service)
    assert greeting(proxy) == b"word"
    proxy.stop()
    assert failures(proxy.log) == []
