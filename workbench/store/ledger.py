"""Every item score ever paid for. Knows keys and numbers; knows no model, no task and no prompt.

The key holds the weights' digest, the tokenizer, the scorer's version and the tokens themselves, so one model's scores
can never be read for another's, and an edited prompt is a new question. A number once paid for never changes.
"""

import hashlib
import math
import sys
import zlib
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from itertools import islice
from typing import Any, Literal, ParamSpec, TypeVar

import sqlalchemy as sa

from workbench.errors import RunError
from workbench.store.database import Database, insert
from workbench.store.faults import AwayError
from workbench.store.schema import ledger as table
from workbench.store.schema import ledger_plans

P = ParamSpec("P")
R = TypeVar("R")
_OWNER_BYTES = 16
_TRIES = 3
_CHUNK = 4000
"""Keys of one SELECT: SQLite takes at most 32,766 parameters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerEntry:
    """An answer that was paid for: a score (`logprob`, `is_greedy`) or a generation (`text`, `finish`)."""

    logprob: float | None = None
    """Nats; float64 as given, except that -0.0 is 0.0: SQLite keeps no sign of zero, and both databases agree."""
    is_greedy: bool | None = None
    tokens: int = 0
    text: str | None = None
    finish: str | None = None

    def __post_init__(self) -> None:
        if self.logprob is not None:
            object.__setattr__(self, "logprob", self.logprob + 0.0)


def ledger_key(
    fingerprint: str, tokenizer: str, scorer: str, kind: Literal["score", "generate"], payload: Sequence[Any]
) -> bytes:
    """The 48-byte key of one question to one model.

    `payload` is everything the answer depends on: `(context_ids, continuation_ids)` of a score; prompt ids and all
    generation parameters of a generation. Parts may be None, bool, int, float, str, bytes and sequences of them; each
    is written with its type and length, so different payloads never give the same bytes.
    """
    digest = hashlib.sha256()
    for part in (fingerprint, tokenizer, scorer, kind, tuple(payload)):
        digest.update(_encode(part))
    return _owner(fingerprint) + digest.digest()


def _asked_again(method: Callable[P, R]) -> Callable[P, R]:
    """A server that went away in the middle undid all of it: do it again, and wait for the server there."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for _ in range(_TRIES - 1):
            try:
                return method(*args, **kwargs)
            except AwayError:
                continue
        return method(*args, **kwargs)

    return call


class Ledger:
    """The ledger of one store. What is asked of it may be asked twice, and is where the database server goes away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @_asked_again
    def get_many(self, keys: Iterable[bytes]) -> dict[bytes, LedgerEntry]:
        """What is known of these keys; the unknown ones are left out."""
        found: dict[bytes, LedgerEntry] = {}
        # Sorted keys are neighbours on the pages of the table: each page is read once.
        wanted = sorted(set(keys))
        query = sa.select(table).where(_any_of(self._database))
        with self._database.read() as connection:
            for chunk in _chunks(wanted, _CHUNK):
                for key, *values in connection.execute(query, {"keys": chunk}):
                    found[bytes(key)] = _entry(values)
        return found

    @_asked_again
    def put_many(self, entries: Mapping[bytes, LedgerEntry] | Iterable[tuple[bytes, LedgerEntry]]) -> None:
        """Write one tile in one transaction: all of it or nothing. Keys that are there already keep their number.

        Raises:
            RunError: a NaN (a broken model), or the store cannot be written.
        """
        pairs = dict(entries)
        # In key order: two writers of overlapping tiles then wait for each other instead of dead-locking.
        rows = [_row(key, pairs[key]) for key in sorted(pairs)]
        if not rows:
            return
        with self._database.write(counts=False) as connection:
            connection.execute(insert(connection, table).on_conflict_do_nothing(), rows)

    @_asked_again
    def begin(self, questions: Sequence[bytes], unpaid: Collection[int]) -> frozenset[int]:
        """What this run sets out to compute: indices into `questions`, written down before the first is computed.

        The same questions begun before and not ended give what was written then, so that a resumed run has the same
        tiles and the same bits. If something of that is unpaid which was paid then, the run is new.
        """
        if not questions:
            return frozenset()
        key, packed = _plan_key(questions), _pack(unpaid, len(questions))
        with self._database.write(counts=False) as connection:
            query = sa.select(ledger_plans.c.questions).where(ledger_plans.c.key == key)
            row = connection.execute(query).scalar_one_or_none()
            if row is not None and (begun := _unpack(bytes(row))) >= frozenset(unpaid):
                return begun
            # Not "delete, then insert": another process may begin the same run at the same moment.
            statement = insert(connection, ledger_plans).values(key=key, questions=packed)
            connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"questions": packed}))
        return frozenset(unpaid)

    @_asked_again
    def end(self, questions: Sequence[bytes]) -> None:
        """The run is complete: forget what it set out to compute."""
        if not questions:
            return
        with self._database.write(counts=False) as connection:
            connection.execute(sa.delete(ledger_plans).where(ledger_plans.c.key == _plan_key(questions)))

    def counts(self, fingerprints: Iterable[str]) -> dict[str, int]:
        """Entries per checkpoint, for the fingerprints asked for."""
        names = {_owner(fingerprint): fingerprint for fingerprint in fingerprints}
        counts = dict.fromkeys(names.values(), 0)
        with self._database.read() as connection:
            for owner, name in names.items():
                query = sa.select(sa.func.count()).select_from(table).where(_owned_by(owner))
                counts[name] = connection.execute(query).scalar_one()
        return counts

    def count(self) -> int:
        """All entries."""
        with self._database.read() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()

    def forget(self, fingerprint: str) -> int:
        """Delete all entries of one checkpoint; returns how many there were."""
        with self._database.write(counts=False) as connection:
            connection.execute(sa.delete(ledger_plans).where(_owned_by(_owner(fingerprint), ledger_plans)))
            return connection.execute(sa.delete(table).where(_owned_by(_owner(fingerprint)))).rowcount


def damaged_plans(plans: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """Keys of those plans of unfinished runs that cannot be read."""
    damaged = []
    for key, packed in plans:
        try:
            _unpack(packed)
        except zlib.error:
            damaged.append(key)
    return damaged


def _plan_key(questions: Sequence[bytes]) -> bytes:
    digest = hashlib.sha256()
    for key in questions:
        digest.update(key)
    return questions[0][:_OWNER_BYTES] + digest.digest()


def _pack(indices: Collection[int], size: int) -> bytes:
    bits = bytearray((size + 7) // 8)
    for index in indices:
        bits[index // 8] |= 1 << index % 8
    return zlib.compress(bytes(bits))


def _unpack(packed: bytes) -> frozenset[int]:
    bits = zlib.decompress(packed)
    return frozenset(8 * at + bit for at, byte in enumerate(bits) for bit in range(8) if byte >> bit & 1)


def _owner(fingerprint: str) -> bytes:
    return hashlib.sha256(fingerprint.encode()).digest()[:_OWNER_BYTES]


def _owned_by(owner: bytes, of: sa.Table = table) -> sa.ColumnElement[bool]:
    return sa.and_(of.c.key >= owner, of.c.key <= owner + b"\xff" * 33)


def _any_of(database: Database) -> sa.ColumnElement[bool]:
    if database.is_sqlite:
        return table.c.key.in_(sa.bindparam("keys", expanding=True))
    return table.c.key == sa.func.any(sa.bindparam("keys", type_=sa.ARRAY(sa.LargeBinary)))


def _encode(part: Any) -> bytes:
    """Type letter, length, bytes."""
    if isinstance(part, (tuple, list)):
        if part and set(map(type, part)) == {int}:
            return _sized(b"I", _integers(part))
        return _sized(b"L", b"".join(_encode(member) for member in part))
    if part is None:
        return _sized(b"N", b"")
    if isinstance(part, bool):
        return _sized(b"B", bytes([part]))
    if isinstance(part, int):
        return _sized(b"i", str(part).encode())
    if isinstance(part, float):
        return _sized(b"F", part.hex().encode())
    if isinstance(part, str):
        return _sized(b"S", part.encode("utf-8", "surrogatepass"))
    if isinstance(part, bytes):
        return _sized(b"X", part)
    raise TypeError(f"a ledger key cannot hold {type(part).__name__}")


def _sized(letter: bytes, body: bytes) -> bytes:
    return letter + len(body).to_bytes(8, "little") + body


def _integers(values: Sequence[int]) -> bytes:
    numbers = array("q", values)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _row(key: bytes, entry: LedgerEntry) -> dict[str, Any]:
    if entry.logprob is not None and math.isnan(entry.logprob):
        raise RunError("ledger: a log-probability is NaN; the model's weights or its arithmetic are broken")
    text = None if entry.text is None else entry.text.encode("utf-8", "surrogatepass")
    return {
        "key": key,
        "logprob": entry.logprob,
        "is_greedy": entry.is_greedy,
        "tokens": entry.tokens,
        "text": text,
        "finish": entry.finish,
    }


def _entry(values: Sequence[Any]) -> LedgerEntry:
    logprob, is_greedy, tokens, text, finish = values
    return LedgerEntry(
        logprob=logprob,
        is_greedy=is_greedy,
        tokens=tokens,
        text=None if text is None else bytes(text).decode("utf-8", "surrogatepass"),
        finish=finish,
    )


def _chunks(values: Sequence[bytes], size: int) -> Iterator[list[bytes]]:
    iterator = iter(values)
    while chunk := list(islice(iterator, size)):
        yield chunk
