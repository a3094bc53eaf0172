"""Faults of databases and disks as one line: what happened and what cures it. Knows messages and codes only."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.errors import RunError, StoreError, WorkbenchError

_KEPT = "what was written before is kept; run the same command again"


class AwayError(RunError):
    """The database server went away in the middle of something, all of which is undone."""


def is_away(error: BaseException | None) -> bool:
    """Whether a PostgreSQL server is not there now, though it may be soon: stopped, starting, or out of reach."""
    code = getattr(error, "sqlstate", None) or ""
    folded = str(error).lower()
    lost = any(said in folded for said in ("connect", "server closed", "terminating"))
    return code[:3] in ("57P", "080") or (type(error).__name__ == "OperationalError" and not code and lost)


def explain(error: BaseException, *, where: str, busy_timeout_s: float) -> WorkbenchError:
    """The error to raise for a driver's (sqlite3 or psycopg)."""
    text = " ".join(str(error).split()) or type(error).__name__
    folded = text.lower()
    code = getattr(error, "sqlstate", None) or ""
    if "database or disk is full" in folded or code == "53100":
        return RunError(f"store {where}: the disk is full; free some space, {_KEPT}")
    if "locked" in folded or "busy" in folded or code in ("55P03", "40P01"):
        return RunError(
            f"store {where}: another process has been writing for more than {busy_timeout_s:g} s; wait for it, {_KEPT}"
        )
    if "readonly" in folded or "unable to open" in folded or code in ("25006", "42501"):
        return StoreError(
            f"store {where}: cannot be opened for writing ({text}); check that the folder exists and its permissions"
        )
    if "not a database" in folded or "malformed" in folded:
        return StoreError(
            f"store {where}: no readable SQLite database ({text}); restore a copy, or name another file as `store` in "
            "workbench.yaml"
        )
    if code.startswith(("57P", "08")) or "server closed" in folded or "connection is lost" in folded:
        return AwayError(f"store {where}: the server went away ({text}); start it again, {_KEPT}")
    if code.startswith("3D") or (type(error).__name__ == "OperationalError" and not code and "connect" in folded):
        return StoreError(
            f"store {where}: no connection ({text}); start the server, or correct `store` in workbench.yaml"
        )
    return RunError(f"store {where}: {text}; {_KEPT}")


@contextmanager
def explained_files(folder: Path) -> Iterator[None]:
    """Turn the OSError of a write into the one-line error that names its cure."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RunError(f"{folder}: the disk is full ({reason}); free some space, {_KEPT}") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise StoreError(f"{folder}: cannot be written ({reason}); check its permissions") from error
        raise RunError(f"{folder}: {reason}; {_KEPT}") from error
