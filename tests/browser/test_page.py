"""The live page in a real browser, with a real proxy."""

from __future__ import annotations

import random
import re
import resource
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from selenium.webdriver.common.keys import Keys

from rproxy.admin.figures import count, duration, milliseconds, percentage, significant, size
from rproxy.agent.sampler import Load
from rproxy.net.addresses import written
from rproxy.wire.pdu import SIZE
from rproxy.wire.seal import Unsealed
from tests.benchmarks.simulator import Simulator
from tests.browser.accessibility import faint_texts, unnamed_controls, wide_elements
from tests.browser.chrome import SCHEMES, SIZES, TOLD_S, Chrome
from tests.integration.fake_agents import FakeAgent
from tests.integration.polling import in_background
from tests.integration.proxies import Proxy
from tests.integration.servers import Server, echo
from tests.integration.twistd import Twistd

TOKEN: Final = "a-token-of-the-tests"
MANY: Final = 1000
MOVED_MAX: Final = 0.001
"""Cumulative layout shift: a figure that becomes one digit longer moves by less, a row or a column by much more."""
PAINT_MS: Final = 50.0
"""Script of one update, at most."""
HIDDEN: Final = "return ['doubts', 'doubts-link'].every((id) => document.getElementById(id).hidden)"
"""Whether the page says that nothing looks wrong."""
OF_VERSION_1: Final = b"\x28" + bytes(SIZE - 1)
LOOKS_OFTEN: Final = (
    sys.executable,
    "-c",
    "import sys, rproxy.observe.doubts as doubts; doubts.LOOK_EVERY_S = 0.2; _, _, code = sys.argv[1:4]; "
    "del sys.argv[1:4]; exec(code)",
)
"""Runs what follows it, a Python with `-c`, as a proxy that looks for doubts five times a second."""


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with Chrome(tmp_path_factory.mktemp("chrome")) as chrome:
        yield chrome


def token_file(folder: Path) -> str:
    path = folder / "token"
    path.write_text(TOKEN)
    path.chmod(0o600)
    return str(path)


class Pool:
    """A proxy with three back-ends, whose agents report what they are told to."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        tokens = token_file(folder)
        self.proxy = stack.enter_context(Proxy(folder, "--admin-token-file", tokens, "--probe-interval", "0.5"))
        self.stack = stack
        self.agents: list[FakeAgent] = []
        for cpu in (12, 34, 97):
            server = stack.enter_context(closing(Server(echo)))
            agent = FakeAgent(self.proxy.monitor, server.address[1], Load(cpu=cpu, memory=40, tcp=0))
            stack.callback(agent.close)
            self.agents.append(agent)
        self.names = [written(agent.backend) for agent in self.agents]
        self.url = f"http://{written(self.proxy.admin)}/"

    def name(self, number: int) -> str:
        return self.names[number]

    def connect(self, sessions: int) -> None:
        for _ in range(sessions):
            self.stack.enter_context(closing(socket.create_connection(self.proxy.address)))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with ExitStack() as stack:
        yield Pool(tmp_path_factory.mktemp("proxy"), stack)


@pytest.fixture
def page(chrome: Chrome, pool: Pool) -> Iterator[Chrome]:
    """The live page of the pool. Nothing that happens on it is an error on the console."""
    chrome.resize("wide")
    chrome.prefer("light")
    chrome.open_live(pool.url)
    chrome.until(lambda: states(chrome).get(pool.name(0)) == "up", "the back-ends are up", 2 * TOLD_S)
    yield chrome
    assert chrome.errors() == []


def rows(page: Chrome) -> dict[str, dict[str, str]]:
    """The table by back-end and heading."""
    script = """
        const heads = [...document.querySelectorAll("#rows th")].map((head) => head.dataset.key);
        return [...document.querySelectorAll("#rows tbody tr")].map((row) => Object.fromEntries(
            [...row.cells].map((cell, number) => [heads[number], cell.innerText.trim()])));
    """
    return {row["backend"].split("\n")[0].split()[0]: row for row in page.run(script)}


def states(page: Chrome) -> dict[str, str]:
    return {name: row["state"] for name, row in rows(page).items()}


def row_of(page: Chrome, name: str) -> Any:
    return page.run(
        "return [...document.querySelectorAll('#rows tbody tr')].find((r) => r.innerText.includes(arguments[0]))", name
    )


def test_it_updates(page: Chrome, pool: Pool) -> None:
    shown = rows(page)[pool.name(1)]
    assert (shown["cpu"], shown["memory"]) == ("34", "40")
    before = int(page.text("#tile-sessions"))
    pool.agents[1].load = Load(cpu=56, memory=41, tcp=0)
    pool.connect(5)
    page.until(lambda: int(page.text("#tile-sessions")) == before + 5, "the new sessions are shown")
    page.until(lambda: rows(page)[pool.name(1)]["cpu"] == "56", "the new figure is shown")
    total = sum(int(row["sessions"].partition("/")[0]) for row in rows(page).values())
    assert total == before + 5
    pool.agents[1].load = Load(cpu=34, memory=40, tcp=0)


def test_a_backend_is_drained_by_a_click_once_the_token_is_given(page: Chrome, pool: Pool) -> None:
    name = pool.name(0)
    page.run("sessionStorage.clear()")
    row_of(page, name).find_element("css selector", "[data-verb=drain]").click()
    page.until(lambda: page.run("return document.querySelector('#token-dialog').open"), "the token is asked for")
    page.press(TOKEN, Keys.ENTER)
    page.until(lambda: states(page)[name] == "draining", "it drains")
    assert pool.proxy.backends()[pool.agents[0].backend]["administration"] == "drain"
    assert name in page.text("#toasts")
    row_of(page, name).find_element("css selector", "[data-verb=ready]").click()
    page.until(lambda: states(page)[name] == "up", "it is up again")
    refused = [error for error in page.errors() if "401" not in error]  # Chromium notes the first answer
    assert refused == []


def test_all_of_it_can_be_done_by_keyboard(page: Chrome, pool: Pool) -> None:
    page.run("sessionStorage.setItem('rproxy-token', arguments[0])", TOKEN)
    first, second = sorted(map(pool.name, range(3)), key=lambda name: int(name.rpartition(":")[2]))[:2]
    page.press(Keys.ARROW_DOWN)
    assert page.run("return document.activeElement.innerText") == first
    page.press("/")
    assert page.run("return document.activeElement.id") == "filter"
    page.press(Keys.ESCAPE)
    page.press(Keys.ARROW_DOWN)
    assert page.run("return document.activeElement.innerText") == second
    page.press("d")
    page.until(lambda: states(page)[second] == "draining", "d drains")
    page.press("r")
    page.until(lambda: states(page)[second] == "up", "r ends that")
    page.press(Keys.ENTER)
    page.until(lambda: page.text("#details-title") == second, "Enter shows its details")
    page.until(lambda: page.text("#details .why"), "why it is as it is")
    page.press(Keys.ESCAPE)
    assert not page.one("#details").is_displayed()
    assert page.run("return document.activeElement.innerText") == second
    page.press("?")
    assert page.one("#keys-dialog").is_displayed()
    page.press(Keys.ESCAPE)
    assert not page.one("#keys-dialog").is_displayed()


def test_filter_and_order(page: Chrome, pool: Pool) -> None:
    def order() -> list[str]:
        return page.texts("#rows button.name")

    def sort_by(key: str) -> None:
        page.one(f'#rows th[data-key="{key}"] button').click()

    sort_by("cpu")
    assert order() == [pool.name(2), pool.name(1), pool.name(0)]
    sort_by("cpu")
    assert order() == [pool.name(0), pool.name(1), pool.name(2)]
    assert page.one('#rows th[data-key="cpu"]').get_attribute("aria-sort") == "ascending"
    port = pool.name(1).rpartition(":")[2]
    page.one("#filter").send_keys(f":{port} up")
    assert order() == [pool.name(1)]
    page.one("#filter").send_keys(" nonsense")
    assert (order(), page.text("#more")) == ([], "No back-end matches.")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_it_can_be_read_and_used_by_everyone(page: Chrome, pool: Pool, scheme: str) -> None:
    page.prefer(scheme)
    for opens in (False, True):
        if opens:
            row_of(page, pool.name(2)).find_element("css selector", "button.name").click()
            page.until(lambda: page.text("#details .choices"), "its details")
        for window in SIZES:
            page.resize(window)
            assert (faint_texts(page), unnamed_controls(page), wide_elements(page)) == ([], [], []), window


def test_a_services_name_is_shown_at_any_width(page: Chrome) -> None:
    widest = "document.querySelector('#services tbody .pill').textContent = 'no back-end'"
    fits = (
        "[...document.querySelectorAll('#services tbody td')].slice(0, 2).every((c) => c.scrollWidth <= c.clientWidth)"
    )
    for width in (320, 350, *range(360, 1500, 60)):
        page.resize_to(width, 900)
        assert page.run(f"{widest}; return {fits}"), width


def test_a_backends_name_is_shown_at_any_width(page: Chrome) -> None:
    """With one service, and with several, whose names have a column of their own."""
    beyond = "(name) => name.getBoundingClientRect().right > name.closest('td').getBoundingClientRect().right"
    cut = f"return [...document.querySelectorAll('#rows tbody .name')].filter({beyond}).map((name) => name.innerText)"
    for width in (320, 350, 375, *range(380, 1800, 30)):
        page.resize_to(width, 900)
        for change in ("add", "remove"):
            assert page.run(f"document.body.classList.{change}('one-service'); {cut}") == [], (width, change)


def test_it_is_printed_dark_on_light(page: Chrome) -> None:
    page.prefer("dark", media="print")
    channels = page.run("return getComputedStyle(document.body).color.match(/[0-9]+/g).map(Number)")
    page.prefer("light")
    assert max(channels) < 100


def test_updates_move_nothing_in_the_tables(page: Chrome, pool: Pool) -> None:
    page.run("""
        window.moved = 0;
        const tables = ".tiles, .card:has(table)";
        const inTables = ({ node }) => (node?.closest ? node : node?.parentElement)?.closest(tables);
        const add = (list) => list.getEntries().filter((entry) => entry.sources.some(inTables)).forEach(
            (entry) => (window.moved += entry.value));
        new PerformanceObserver(add).observe({ type: "layout-shift" });
    """)
    pool.connect(12)
    pool.agents[0].load = Load(cpu=100, memory=99, tcp=0)
    page.until(lambda: rows(page)[pool.name(0)]["cpu"] == "100", "the new figures are shown")
    pool.agents[0].load = Load(cpu=9, memory=9, tcp=0)
    page.until(lambda: rows(page)[pool.name(0)]["cpu"] == "9", "the new figures are shown")
    assert page.run("return window.moved") < MOVED_MAX


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ("<p style='color:#777;background:#fff'>faint</p>", faint_texts),
        ("<button></button>", unnamed_controls),
        ("<p style='width:2000px'>wide</p>", wide_elements),
    ],
)
def test_what_keeps_people_from_using_a_page_is_found(
    chrome: Chrome, body: str, found: Callable[[Chrome], list[str]]
) -> None:
    chrome.open(f"data:text/html,<body style='background:white'>{body.replace('#', '%23')}")
    assert len(found(chrome)) == 1


@pytest.mark.parametrize(
    ("shown", "name"),
    [
        (count, "count"),
        (size, "bytes"),
        (significant, "significant"),
        (milliseconds, "milliseconds"),
        (percentage, "percentage"),
        (duration, "duration"),
    ],
)
def test_scripts_and_server_write_figures_the_same_way(
    page: Chrome, shown: Callable[[float | None], str], name: str
) -> None:
    values = [None, 0, 0.004, 0.0996, 0.4, 1, 9.94, 9.97, 42.42, 99.97, 100, 999.6, 3600, 3725, 12345.6, 99_999]
    values += [123_456, 999_960, 1_234_567, 90_061, 172_800, 5e9]
    script = f"return import('./static/format.js').then((format) => arguments[0].map(format.{name}))"
    assert page.run(script, values) == [shown(value) for value in values]


def test_without_scripts_it_is_a_table_that_loads_itself_again(pool: Pool, tmp_path: Path) -> None:
    with Chrome(tmp_path, scripts=False) as chrome:
        chrome.open(pool.url)
        assert pool.name(0) in chrome.one("#rows").text
        heads = [head.text for head in chrome.all("#rows th") if head.is_displayed()]
        assert {"State", "Score", "RTT ms", "Loss %", "CPU %", "Queue %", "Sessions", "Total", "Bytes"} <= set(heads)
        assert not chrome.one("#filter").is_displayed()
        assert len(chrome.all("#services tbody tr")) == 1

        def said() -> str:
            return str(chrome.run("return document.querySelector('#connection').textContent"))

        first = said()
        assert re.fullmatch(r"As of [0-9:]+ \w+, every 5 s", first)
        chrome.until(lambda: said() != first, "it is loaded again", 12.0)


def test_a_dead_one_is_shown_within_seconds(page: Chrome, pool: Pool) -> None:
    pool.agents[1].close(unregister=False)
    page.until(lambda: states(page)[pool.name(1)] == "down", "it is down", 8.0)
    assert page.text("#tile-eligible") == "2"
    assert pool.name(1) in page.text("#events li")
    assert page.text("#events .pill") == "down"
    page.run("arguments[0].click()", row_of(page, pool.name(1)))
    page.until(lambda: "Went down\nonce" in page.text("#details .figures"), "its details are shown")
    assert re.search(r"Failed checks\n[1-9]", page.text("#details .figures"))


# Others


def test_a_page_from_afar_asks_for_the_token_before_it_shows_anything(chrome: Chrome, tmp_path: Path) -> None:
    tokens = token_file(tmp_path)
    options = ("--listen", "127.0.0.1:0", "--monitor", "127.0.0.1:0", "--demo", "1", "--admin", "0.0.0.0:0")
    with Twistd(tmp_path, "rproxy", *options, "--admin-token-file", tokens) as proxy:
        port = proxy.logged(r"status at http://0\.0\.0\.0:(\d+)/")
        proxy.logged("(registered -> up)")
        chrome.open(f"http://127.0.0.1:{port}/")
        chrome.run("sessionStorage.clear()")
        reasons = ["Reading needs the token.", "The proxy does not take this token."]
        for typed, reason in zip(("no-such-token-of-the-tests", TOKEN), reasons, strict=True):
            chrome.until(partial(says, chrome, "#token-reason", reason), "the token is asked for")
            assert chrome.text("#connection").startswith("Locked")
            assert chrome.texts("#rows button.name") == []
            chrome.press(typed, Keys.ENTER)
        chrome.until(lambda: chrome.text("#connection") == "Live", "it is live")
        chrome.until(lambda: chrome.text("#tile-eligible") == "1", "its back-end is shown")


def test_a_proxy_that_stops_and_comes_again_is_followed(chrome: Chrome, tmp_path: Path) -> None:
    with Proxy(tmp_path, "--demo", "1") as proxy:
        admin, url = written(proxy.admin), f"http://{written(proxy.admin)}/"
        chrome.open_live(url)
        shown = chrome.text("#about")
        pid = shown.rpartition("·")[2]
        chrome.until(lambda: chrome.text("#about") != shown, "its age grows")
        assert chrome.text("#about").endswith(pid)
    chrome.until(lambda: "Not connected" in chrome.text("#connection"), "the end is noticed")
    with Proxy(tmp_path, "--demo", "2", "--admin", admin):
        chrome.until(lambda: chrome.text("#connection") == "Live", "it is connected again", 15.0)
        chrome.until(lambda: chrome.text("#tile-known") == "of 2", "and up to date")
        chrome.until(lambda: not chrome.text("#about").endswith(pid), "about another process")


def test_a_doubt_is_shown_while_it_lasts(chrome: Chrome, tmp_path: Path) -> None:
    """Somebody whose datagrams are of a later version sends some, and no more once that is shown."""
    with (
        Proxy(tmp_path, "--demo", "1", wrapper=LOOKS_OFTEN) as proxy,
        closing(socket.socket(type=socket.SOCK_DGRAM)) as other,
    ):
        chrome.open_live(f"http://{written(proxy.admin)}/")
        assert chrome.run(HIDDEN)

        def is_shown() -> bool:
            other.sendto(OF_VERSION_1, proxy.monitor)
            return "of another version of the protocol were dropped" in chrome.text("#doubts li")

        chrome.until(is_shown, "it is shown", 15.0)
        assert (chrome.text("#doubts-link"), chrome.run(HIDDEN)) == ("1 doubt", False)
        chrome.until(lambda: chrome.run(HIDDEN), "it is gone", 15.0)
        assert chrome.errors() == []


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * MANY), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_files")
def test_a_thousand_backends_stay_usable(chrome: Chrome, tmp_path: Path) -> None:
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(tmp_path, "--max-backends", "8192", "--probe-interval", "1"))
        simulator = stack.enter_context(closing(Simulator(proxy.monitor, Unsealed(), MANY, random.Random(1))))
        over: list[bool] = []
        simulator.start()
        agents = in_background(simulator.run, 60.0, lambda: bool(over))
        stack.callback(agents.result)
        stack.callback(over.append, True)
        chrome.resize("wide")
        chrome.open_live(f"http://{written(proxy.admin)}/")
        chrome.until(lambda: chrome.text("#tile-eligible") == "1,000", "all are up", 20.0)
        chrome.until(lambda: len(chrome.all("#rows tbody tr")) == 200, "the first ones are shown")
        chrome.one("#more button").click()
        chrome.until(lambda: len(chrome.all("#rows tbody tr")) == MANY, "all are shown")
        assert min(updates(chrome, 3)) < PAINT_MS
        chrome.one("#filter").send_keys("127.1.3.231")
        chrome.until(lambda: chrome.texts("#rows button.name") == ["127.1.3.231:80"], "one is found")
        assert chrome.errors() == []


def says(page: Chrome, selector: str, text: str) -> bool:
    return page.text(selector) == text


def updates(page: Chrome, number: int) -> list[float]:
    """How many ms of script each of the next updates takes."""
    took = []
    for _ in range(number):
        page.run("delete document.documentElement.dataset.painted")
        shown = page.until(lambda: page.run("return document.documentElement.dataset.painted"), "an update")
        took.append(float(shown))
    return took
