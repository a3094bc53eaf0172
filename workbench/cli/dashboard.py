"""`workbench dashboard`: the project in a browser. Starts Streamlit as a process of its own; imports none of it."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path
from typing import Annotated

import typer

from workbench.cli.output import print_line, say

LOCAL = ("127.0.0.1", "localhost", "::1")
_START_S, _STOP_S = 60.0, 5.0


ProjectFolder = Annotated[
    Path | None, typer.Option(help="Project folder (default: the nearest).", rich_help_panel="Project")
]
Host = Annotated[str, typer.Option(help="Address to listen on.", rich_help_panel="Server")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.", rich_help_panel="Server")]
OpenBrowser = Annotated[
    bool, typer.Option("--open/--no-open", help="Open the page where a desktop is.", rich_help_panel="Server")
]


def command(
    project: ProjectFolder = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Nobody may start or change anything.", rich_help_panel="Project")
    ] = False,
    host: Host = "127.0.0.1",
    port: Port = 8501,
    open_browser: OpenBrowser = True,
) -> None:
    """Show the project in a browser: what may ship and why not, what changed, who decided; start runs from there.

    Listens on this machine alone unless told otherwise. With [auth] in .streamlit/secrets.toml of the project people
    sign in by OpenID Connect; without it the pages say that they are in local mode. Ctrl-C stops.

    Examples:
        workbench dashboard
        workbench dashboard --project demo --port 0 --no-open
        workbench dashboard --read-only
    """
    show_pages(project, read_only=read_only, host=host, port=port, open_browser=open_browser)


def review_command(
    project: ProjectFolder = None, host: Host = "127.0.0.1", port: Port = 8501, open_browser: OpenBrowser = True
) -> None:
    """Open the page on which people label the texts of the review queue, by keyboard, one at a time.

    It is a page of `workbench dashboard`, and listens as that does. docs/labelling.md is its guide.

    Examples:
        workbench review open
        workbench review open --project demo --port 0 --no-open
    """
    show_pages(project, read_only=False, host=host, port=port, open_browser=open_browser, page="/review")


def show_pages(
    project: Path | None, *, read_only: bool, host: str, port: int, open_browser: bool, page: str = ""
) -> None:
    """Run the server until it is stopped; `page` is the address of the one to begin with."""
    from workbench.cli.projects import find_project
    from workbench.errors import ConfigError

    if importlib.util.find_spec("streamlit") is None:
        raise ConfigError("dashboard: Streamlit is not installed; pip install 'model-workbench[dashboard]'")
    with find_project(project, create=True) as home:
        root = home.root
        if home.store.version() == 0:
            say("note: this project is empty; the pages say which commands fill it")
    if _has_sign_in(root) and importlib.util.find_spec("authlib") is None:
        raise ConfigError("dashboard: [auth] needs Authlib, not installed; pip install 'model-workbench[dashboard]'")
    if host not in LOCAL and not _has_sign_in(root):
        raise ConfigError(
            f"--host {host}: others could start runs here under any name; set [auth] in "
            f"{root / '.streamlit' / 'secrets.toml'} (docs/dashboards.md says how), or leave it at 127.0.0.1"
        )
    chosen = port or _free_port(host)
    words = server_command(root, host=host, port=chosen, read_only=read_only)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the child never outlives us
    process = subprocess.Popen(words, cwd=root)  # noqa: S603  # no shell; every word is ours
    try:
        url = f"http://{f'[{host}]' if ':' in host else host}:{chosen}"
        _wait_until_ready(process, url)
        say(f"{root.name} by Streamlit; Ctrl-C stops")
        print_line(url + page)
        sys.stdout.flush()
        if open_browser and has_desktop():
            typer.launch(url + page)
        process.wait()
    except KeyboardInterrupt:
        pass
    finally:
        _stop(process)


def _has_sign_in(root: Path) -> bool:
    """Whether `[auth]` stands in the project's secrets.

    Raises:
        ConfigError: the file cannot be read.
    """
    from workbench.errors import ConfigError

    path = root / ".streamlit" / "secrets.toml"
    try:
        return path.is_file() and "auth" in tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def server_command(root: Path, *, host: str, port: int, read_only: bool) -> list[str]:
    """The child process, word by word."""
    import dashboards

    folder = Path(dashboards.__file__).parent
    options = {
        "server.address": host,
        "server.port": port,
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "server.enableXsrfProtection": "true",
        "server.enableCORS": "true",
        "server.maxUploadSize": 1,
        "client.showErrorDetails": "none",
        "client.showErrorLinks": "false",
        "client.toolbarMode": "viewer",
        "client.disableDataExport": "true",  # our own download keeps formulas from running
        "browser.gatherUsageStats": "false",
        "runner.magicEnabled": "false",  # a docstring in a page is no text of the page
        "theme.base": folder / "theme.toml",
    }
    # -P: a file of the project folder never takes the place of a module.
    words = [sys.executable, "-P", "-m", "streamlit", "run", str(folder / "app.py")]
    words += [f"--{name}={value}" for name, value in options.items()]
    return [*words, "--", "--project", str(root), *(["--read-only"] if read_only else [])]


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])


def _wait_until_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    from workbench.errors import RunError

    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RunError(f"dashboard: Streamlit ended with exit code {process.returncode}; its reason stands above")
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2) as answer:  # noqa: S310  # our own address
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise RunError(f"dashboard: {url} does not answer after {_START_S:.0f} s")


def has_desktop() -> bool:
    """Whether a browser can be opened for somebody to see; never in CI."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        return False
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
