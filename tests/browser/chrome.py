"""A headless Chromium, driven by Selenium's client through Debian's chromedriver."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.conftest import need
from tests.integration.polling import READY_S, poll

SIZES: Final = {"wide": (1440, 900), "tablet": (768, 1024), "phone": (390, 844)}
SCHEMES: Final = ("light", "dark")
TOLD_S: Final = 5.0
"""What has changed is on the page within it: a message comes once a second."""


class Chrome:
    """One window. `scripts` is whether pages may run any."""

    def __init__(self, folder: Path, *, scripts: bool = True) -> None:
        (driver,) = need("chromedriver")
        options = webdriver.ChromeOptions()
        arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}",
        ]
        for argument in arguments + ([] if scripts else ["--blink-settings=scriptEnabled=false"]):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))
        self.resize("wide")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.quit()

    def open(self, url: str) -> None:
        """And forget what earlier pages have said on the console."""
        self.driver.get("about:blank")
        self.errors()
        self.driver.get(url)

    def open_live(self, url: str) -> None:
        """And wait until the page is up to date, and its scripts have drawn the rows that the server sent."""
        self.open(url)
        self.until(lambda: self.text("#connection") == "Live", "the page is live", READY_S)
        self.until(lambda: self.run("return document.documentElement.dataset.painted"), "it is drawn", READY_S)

    def resize(self, size: str) -> None:
        self.resize_to(*SIZES[size])

    def resize_to(self, width: int, height: int) -> None:
        self._devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def prefer(self, scheme: str, media: str = "") -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._devtools("Emulation.setEmulatedMedia", media=media, features=features)

    def _devtools(self, command: str, **arguments: Any) -> None:
        self.driver.execute_cdp_cmd(command, arguments)

    def errors(self) -> list[str]:
        """What the console has shown since the last call."""
        return [json.dumps(each["message"]) for each in self.driver.get_log("browser") if each["level"] != "INFO"]

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """Of the first such element, read in one step: it may be replaced at any time."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector)).strip()

    def texts(self, selector: str) -> list[str]:
        """Of all of them."""
        script = "return [...document.querySelectorAll(arguments[0])].map((each) => each.innerText.trim())"
        return list(self.run(script, selector))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def press(self, *keys: str) -> None:
        """In the element that has the focus."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def until(self, condition: Callable[[], Any], what: str, within_s: float = TOLD_S) -> Any:
        return poll(condition, within_s, what, every_s=0.05)
