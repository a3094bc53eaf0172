"""Pictures of every page of a dashboard, to be looked at: light and dark, wide and as a telephone shows it.

    python -m studies.pictures --project demo [--out build/pictures] [--pages overview,gate] [--docs docs]

A real Chromium opens each page of the project at its full height. `--docs` retakes the pictures that the guides show.
"""

import argparse
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.cli.dashboard import _free_port, server_command

TAKES = "three minutes, for a project that is there"
SCHEMES, WIDTHS = ("light", "dark"), (1280, 400)
IN_DOCS = ("overview", "compare")
"""Pages that docs/dashboards.md shows, as `dashboard_NAME.png`, as far down as one screen reaches."""
_READY = (
    "document.querySelector('h1') && !document.querySelector('[data-testid=stStatusWidget],[data-stale=true],"
    "[data-testid=stSkeleton],[data-testid=stAppSkeleton]')"
)


@contextmanager
def serve(root: Path, *, read_only: bool = True) -> Iterator[str]:
    """The address of a dashboard over a project, as long as it is needed."""
    port = _free_port("127.0.0.1")
    words = server_command(root, host="127.0.0.1", port=port, read_only=read_only)
    process = subprocess.Popen(words, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{url}/_stcore/health", timeout=2).close()  # our own address
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def settle(page: Any) -> None:
    """Until the page has its heading, and nothing on it is old or still drawn."""
    page.wait_for_function(_READY)
    page.wait_for_timeout(500)
    page.wait_for_function(_READY)


def take(page: Any, out: Path, scheme: str, width: int) -> None:
    """One picture of the page that is open, as long as it is."""
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    settle(page)
    for _ in range(2):  # what comes into sight is drawn then, and may be taller
        tall = page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        page.set_viewport_size({"width": width, "height": min(6000, max(900, tall + 10))})
        settle(page)
    page.screenshot(path=str(out))
    print(out, flush=True)


def visit(page: Any, url: str, name: str) -> None:
    """Open a page; `name` may have a query behind it."""
    page.set_viewport_size({"width": 1280, "height": 1000})
    page.goto(f"{url}/{'' if name == 'overview' else name}")
    settle(page)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--project", type=Path, default=Path("demo"))
    parser.add_argument("--out", type=Path, default=Path("build/pictures"))
    parser.add_argument("--pages", default="", help="some pages alone, with commas; a query may follow: items?kind=x")
    parser.add_argument("--docs", type=Path, help="retake the guides' pictures into this folder, nothing else")
    parser.add_argument("--schemes", default=",".join(SCHEMES))
    parser.add_argument("--widths", default=",".join(map(str, WIDTHS)))
    asked = parser.parse_args()
    from playwright.sync_api import sync_playwright

    from dashboards.pages import existing_pages

    asked.out.mkdir(parents=True, exist_ok=True)
    chosen = asked.pages.split(",") if asked.pages else [row.name for row in existing_pages()]
    with serve(asked.project.resolve(), read_only=False) as url, sync_playwright() as playwright:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(viewport={"width": 1280, "height": 1000}).new_page()
        page.set_default_timeout(600_000)
        if asked.docs:
            for name in IN_DOCS:
                visit(page, url, name)
                page.screenshot(path=str(asked.docs / f"dashboard_{name}.png"))
            return
        for name in chosen:
            visit(page, url, name)
            for width in map(int, asked.widths.split(",")):
                for scheme in asked.schemes.split(","):
                    take(page, asked.out / f"{name.partition('?')[0]}-{scheme}-{width}.png", scheme, width)
        browser.close()


if __name__ == "__main__":
    main()
