"""Who may ask, under which policy, how much. Knows a keys file and clocks; knows no model.

The file holds SHA-256 digests of keys, never keys. `new_key` makes keys of 32 random bytes, which no table of digests
can be made for, so a slow password hash would add time to each request and nothing else. `env:NAME` takes a key from
the environment instead.
"""

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, StringConstraints, field_validator

from workbench.config import StrictModel, read_yaml, resolve_env, validate
from workbench.errors import ConfigError
from workbench.store.files import write_file

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
_DIGEST = re.compile(r"^(sha256:[0-9a-f]{64}|env:[A-Za-z_][A-Za-z0-9_]*)$")


class TenantEntry(StrictModel):
    """A customer, product or community that asks."""

    tenant: Name
    policy: str
    """A shipped policy's name, or a file beside the keys file."""
    community: Name | None = None
    keys: tuple[str, ...] = Field(min_length=1)
    """`sha256:DIGEST` of a key, or `env:NAME` of a variable that holds one."""
    context: Mapping[str, Any] = Field(default_factory=dict)
    """Attributes that the policy's conditions may ask for, such as `caller_role`."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    concurrent: int | None = Field(default=None, ge=1)
    """Most requests under way at the same time."""
    system: str | None = None
    """A system message that goes before every conversation; clients then cannot send one of their own."""

    @field_validator("keys")
    @classmethod
    def _no_plain_keys(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        for key in keys:
            if not _DIGEST.match(key):
                raise ValueError(
                    "expected sha256:DIGEST or env:NAME (no key may stand here); make one: workbench new-key"
                )
        return keys


class KeysFile(StrictModel):
    """The whole file."""

    schema_: Literal["keys/v1"] = Field(alias="schema")
    tenants: tuple[TenantEntry, ...] = Field(min_length=1)


@dataclass(eq=False)
class Tenant:
    """Who asked, with what is left of his allowance."""

    name: str
    policy: str
    """Reference of the policy: a shipped name or an absolute path."""
    community: str = ""
    context: Mapping[str, Any] = field(default_factory=dict)
    system: str | None = None
    requests: "Bucket | None" = None
    tokens: "Bucket | None" = None
    concurrent: int | None = None
    running: int = 0


class Bucket:
    """A token bucket: so many a minute, saved up for at most a minute."""

    def __init__(self, per_minute: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self.size = max(1.0, per_minute)
        self._clock = clock
        self._lock = threading.Lock()
        self._level, self._at = self.size, clock()

    def take(self, amount: float = 1.0) -> float:
        """0.0 and the amount is taken, or seconds until it might be there. Debts of `spend` are waited for too."""
        with self._lock:
            self._refill()
            needed = min(amount, self.size)
            if self._level >= needed:
                self._level -= needed
                return 0.0
            return (needed - self._level) * 60 / self.per_minute

    def spend(self, amount: float) -> None:
        """Take what was used, though the bucket may go into debt: its size was not known before."""
        with self._lock:
            self._refill()
            self._level -= amount

    def _refill(self) -> None:
        now = self._clock()
        self._level = min(self.size, self._level + (now - self._at) * self.per_minute / 60)
        self._at = now


class Tenants:
    """Keys and whom they belong to. Without keys everybody is the one tenant `default`."""

    def __init__(self, by_digest: Mapping[str, Tenant], anybody: Tenant | None = None) -> None:
        self._by_digest = dict(by_digest)
        self._anybody = anybody

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a key."""
        return self._anybody is not None

    @classmethod
    def open_to_all(cls, policy: str) -> "Tenants":
        """One tenant, no keys: for a machine of one's own."""
        return cls({}, Tenant(name="default", policy=policy))

    @classmethod
    def load(cls, file: Path) -> "Tenants":
        """Read a keys file.

        Raises:
            ConfigError: the file is faulty, a variable is not set, or a key belongs to two tenants.
        """
        entries = _read_keys(file).tenants
        by_digest: dict[str, Tenant] = {}
        for place, entry in enumerate(entries):
            tenant = _tenant(entry, file)
            for number, key in enumerate(entry.keys):
                where = f"{file}: tenants[{place}].keys[{number}]"
                digest = (
                    key.removeprefix("sha256:")
                    if key.startswith("sha256:")
                    else key_digest(resolve_env(key, where=where))
                )
                if digest in by_digest:
                    raise ConfigError(f"{where}: belongs to {by_digest[digest].name} already; give each its own key")
                by_digest[digest] = tenant
        return cls(by_digest)

    @property
    def all(self) -> list[Tenant]:
        """Every tenant once."""
        found = [*self._by_digest.values(), *([self._anybody] if self._anybody else [])]
        return list(dict.fromkeys(found))

    def find(self, authorization: str) -> Tenant | None:
        """The tenant of an Authorization header; None for a key that is none."""
        if self._anybody is not None:
            return self._anybody
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            return None
        digest = key_digest(key.strip())
        found = None
        for known, tenant in self._by_digest.items():  # all of them: the time must not tell how near a guess was
            if hmac.compare_digest(known, digest):
                found = tenant
        return found


def add_tenant(file: Path, *, tenant: str, policy: str, digest: str) -> None:
    """Write a key's digest into a keys file; a tenant that is there keeps its settings and old keys.

    Raises:
        ConfigError: the file is faulty, or the tenant is there under another policy.
    """
    data = read_yaml(file) if file.exists() else {"schema": "keys/v1", "tenants": []}
    if file.exists():
        _read_keys(file)
    own = next((entry for entry in data["tenants"] if entry["tenant"] == tenant), None)
    if own is None:
        data["tenants"].append({"tenant": tenant, "policy": policy, "keys": [digest]})
    elif own["policy"] == policy:
        own["keys"].append(digest)
    else:
        raise ConfigError(f"{file}: {tenant} is under {own['policy']}, not {policy}; change its line by hand")
    validate(data, KeysFile, where=str(file))
    write_file(file, yaml.safe_dump(data, sort_keys=False))
    file.chmod(0o600)


def key_digest(key: str) -> str:
    """SHA-256 of a key, in hex."""
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def new_key() -> str:
    """A key of 256 random bits."""
    return f"wb-{secrets.token_urlsafe(32)}"


def _read_keys(file: Path) -> KeysFile:
    data = read_yaml(file)
    for place, entry in enumerate(data.get("tenants") or ()):
        keys = entry.get("keys") if isinstance(entry, dict) else None
        for number, key in enumerate(keys if isinstance(keys, list) else ()):
            if not _DIGEST.match(str(key)):  # said here, because faults of a file repeat what stands in it
                where = f"{file}: tenants[{place}].keys[{number}]"
                raise ConfigError(
                    f"{where}: expected sha256:DIGEST or env:NAME, never a key; make one: workbench new-key"
                )
    return validate(data, KeysFile, where=str(file))


def _tenant(entry: TenantEntry, file: Path) -> Tenant:
    beside = file.parent / entry.policy
    return Tenant(
        name=entry.tenant,
        policy=str(beside.resolve()) if beside.is_file() else entry.policy,
        community=entry.community or "",
        context=dict(entry.context),
        system=entry.system,
        requests=Bucket(entry.requests_per_minute) if entry.requests_per_minute else None,
        tokens=Bucket(entry.tokens_per_minute) if entry.tokens_per_minute else None,
        concurrent=entry.concurrent,
    )
