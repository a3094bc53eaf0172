"""A dashboard that is served, and a window of a real browser on it."""

import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Page, expect

from workbench.cli.dashboard import _free_port, server_command

WAIT = 180_000
IGNORED = ("_stcore/health", "_stcore/host-config")
"""On a deep link Streamlit looks for its server below the page's own address first, and it is not there."""


@contextmanager
def serve(root: Path, *, port: int = 0) -> Iterator[str]:
    """The address of a dashboard over a project; whatever it writes to its log as a traceback is a fault."""
    port = port or _free_port("127.0.0.1")
    words = server_command(root, host="127.0.0.1", port=port, read_only=False)
    with (root.parent / "server.log").open("wb") as log:
        process = subprocess.Popen(words, cwd=root, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=2).close()
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(120)
    said = (root.parent / "server.log").read_text()
    assert "Traceback" not in said, said


class Visit:
    """A window in which pages are opened, and what the browser complained of."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.complaints: list[str] = []
        self.foreign: list[str] = []
        self.page: Page = context.new_page()
        self.page.set_default_timeout(WAIT)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self._asked(request.url))

    def _asked(self, address: str) -> None:
        if not address.startswith((self.url, "data:", "blob:", self.url.replace("http", "ws"))):
            self.foreign.append(address)

    def _heard(self, message: Any) -> None:
        where = str(message.location.get("url", ""))
        if message.type == "error" and not any(name in where for name in IGNORED):
            self.complaints.append(message.text)

    def open(self, address: str) -> Page:
        self.page.goto(f"{self.url}/{address}")
        self.settle()
        return self.page

    def look(self, scheme: Any, width: int) -> None:
        """The page that is open, in other colours and at another width."""
        self.page.emulate_media(color_scheme=scheme)
        self.page.set_viewport_size({"width": width, "height": 900})
        self.settle()

    def settle(self) -> None:
        expect(self.page.locator("h1")).to_have_count(1, timeout=WAIT)
        old = '[data-testid="stStatusWidget"], [data-stale="true"]'
        expect(self.page.locator(old)).to_have_count(0, timeout=WAIT)
