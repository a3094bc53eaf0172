"""Folders in object storage, by URL. Knows fsspec and the names of files; knows nothing of what is in them.

A folder is put file by file, the last named one last: whoever sees that one sees them all. What is put is named by the
hash of its content, so nothing that is there is ever written over. Credentials and endpoints come from where the
library of the storage looks for them (for s3: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ~/.aws, an instance's role); a URL
that holds any is refused, and none is ever written down.
"""

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from workbench.errors import ConfigError, RunError, StoreError, WorkbenchError

SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "abfss", "file")
REPORTS, CHECKPOINTS = "reports", "checkpoints"
_URL = re.compile(rf"({'|'.join(SCHEMES)})://[^\s@?#]+")


def is_storage_url(text: str) -> bool:
    """Whether it is an address in object storage, as far as the scheme says."""
    return text.partition("://")[0] in SCHEMES and "://" in text


class Storage:
    """One place in object storage, and what lies below it."""

    def __init__(self, url: str) -> None:
        """Nothing is asked of the storage yet. Raises ConfigError: no URL of a known scheme, or one with secrets."""
        if not _URL.fullmatch(url) or "::" in url or ".." in url.split("/"):
            raise ConfigError(
                f"storage {_without_secrets(url)}: an address such as s3://bucket/folder is expected "
                f"({', '.join(SCHEMES)}), without user, password or options, which belong into the environment"
            )
        self.url = url.rstrip("/")

    def at(self, name: str) -> "Storage":
        """A place below."""
        return Storage(f"{self.url}/{name}")

    def files(self) -> dict[str, tuple[int, str]]:
        """Path below here -> (bytes, what changes when the file does), of all that lies here; empty: nothing does."""
        with self._explained():
            self._files.invalidate_cache()
            try:
                found = self._files.find(self._root, detail=True)
            except FileNotFoundError:
                return {}
        root = self._root.rstrip("/") + "/"
        listed: dict[str, tuple[int, str]] = {}
        for path, info in found.items():
            name = path.removeprefix(root)
            if name != path and ".." not in PurePosixPath(name).parts and not PurePosixPath(name).is_absolute():
                tag = next((str(info[key]) for key in ("ETag", "etag", "md5Hash", "mtime") if info.get(key)), "")
                listed[name] = (int(info.get("size") or 0), tag)
        return listed

    def get(self, names: Sequence[str], folder: Path) -> None:
        """Copy files into a folder. Raises StoreError: one is not there; RunError: one came shorter than it is."""
        there = self.files()
        for name in names:
            if name not in there:
                raise StoreError(f"{self.url}: it holds no {name}; restore it from a backup, or make it again")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._explained():
                self._files.get_file(f"{self._root}/{name}", str(target))
            if target.stat().st_size != there[name][0]:
                raise RunError(f"{self.url}/{name}: only {target.stat().st_size} bytes came; run it again")

    def put(self, folder: Path, names: Sequence[str]) -> None:
        """Copy files of a folder here, in this order; those of the same size are there already."""
        there = self.files()
        for name in names:
            if there.get(name, (-1, ""))[0] == (folder / name).stat().st_size:
                continue
            with self._explained():
                if self.url.startswith("file:"):  # elsewhere folders are no more than a part of names
                    self._files.makedirs(str(PurePosixPath(self._root, name).parent), exist_ok=True)
                self._files.put_file(str(folder / name), f"{self._root}/{name}")

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        from fsspec.core import url_to_fs

        with self._explained():
            return url_to_fs(self.url, use_listings_cache=False)

    @property
    def _files(self) -> Any:
        return self._opened[0]

    @property
    def _root(self) -> str:
        return self._opened[1]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Each storage's library has errors of its own; here they become one line."""
        try:
            yield
        except WorkbenchError:
            raise
        except FileNotFoundError:
            raise StoreError(f"{self.url}: no such bucket or folder; make it, or correct the address") from None
        except ImportError as error:
            raise StoreError(
                f"{self.url}: {error.name or 'its library'} is not installed; pip install 'model-workbench[scale]' "
                "(s3fs), or gcsfs for gs://, adlfs for az://"
            ) from None
        except Exception as error:
            said = _without_secrets(" ".join(str(error).split()))[:200] or type(error).__name__
            if isinstance(error, PermissionError) or "credential" in said.lower():
                raise StoreError(
                    f"{self.url}: no access ({said}); set its credentials in the environment, for s3 AWS_ACCESS_KEY_ID "
                    "and AWS_SECRET_ACCESS_KEY or AWS_PROFILE"
                ) from None
            raise StoreError(
                f"{self.url}: cannot be reached ({said}); check the address and the network, for s3 AWS_ENDPOINT_URL; "
                "what is written here is kept"
            ) from None


def fill_from(storage: Storage, names: Sequence[str], folder: Path) -> None:
    """Make a folder of what storage holds, whole or not at all; one that is there stays."""
    from workbench.store.files import write_folder

    write_folder(folder, names, lambda hidden: storage.get(names, hidden))


def move_into_cache(hidden: Path, target: Path) -> None:
    """Give a folder that is whole its name; another process may have been faster."""
    try:
        hidden.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(hidden, ignore_errors=True)


def _without_secrets(text: str) -> str:
    return re.sub(r"(?<=://)[^/\s]*@", "...@", re.sub(r"\?\S+", "?...", text))
