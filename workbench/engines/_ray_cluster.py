"""Where Ray runs: what --workers says, connecting to it, and what there is room for. Knows no engine and no request."""

import inspect
import os
import re
import socket
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import EngineError

_WORKERS = re.compile(r"(?P<count>[0-9]+)|(?P<address>auto|ray://[^/\s#@]+:[0-9]+)(#(?P<of>[0-9]+))?")
_START_S = 240
_OBJECT_STORE_BYTES = 256 * 1024 * 1024
_connected: dict[str, str | None] = {}
"""`address`: where this process is connected to, as Workers has it."""
_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")


@dataclass(frozen=True, kw_only=True, slots=True)
class Workers:
    """Where workers run, and how many."""

    address: str | None = None
    """`ray://HOST:PORT`, or `auto`: the cluster that this machine is a part of; None: processes of this machine."""
    count: int | None = None
    """None: as many as the cluster has GPUs, else processors."""


def read_workers(text: str) -> Workers:
    """What --workers says. Raises EngineError.

    >>> read_workers("ray://head:10001#8").count
    8
    """
    found = _WORKERS.fullmatch(text.strip())
    count = found and (found["count"] or found["of"])
    if not found or (count is not None and int(count) < 1):
        shown = re.sub(r"//.*@", "//...@", text)  # a password may stand there
        raise EngineError(
            f"--workers {shown}: a number of processes is expected, or a Ray cluster: ray://HOST:10001, with #N for N "
            "workers of it, or auto on a machine of the cluster"
        )
    return Workers(address=found["address"], count=None if count is None else int(count))


def connect(workers: Workers) -> Any:
    """The module ray, connected: to a cluster, or to one of this process's own, kept until the process ends.

    Raises EngineError: Ray is not installed, or the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told that, and how, Ray is used here
    os.environ.setdefault("RAY_worker_niceness", "0")  # the work itself; Ray would give it what everything else leaves
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns about its own next version
    try:
        import ray
        from ray._private import worker as printing
    except ModuleNotFoundError as error:
        raise EngineError(
            f"--workers: {error.name} is not installed; pip install 'model-workbench[scale]', or leave --workers out"
        ) from None
    # Ray prints the death of a worker on stdout, which is data here; whoever asks for answers hears of it anyway.
    printing.print_to_stdstream = lambda *_, **__: None
    wanted = max(workers.count or 1, os.cpu_count() or 1)
    if ray.is_initialized():
        fits = workers.address is not None or ray.cluster_resources().get("CPU", 0) >= wanted
        if _connected.get("address", "") == workers.address and fits:
            return ray
        ray.shutdown()  # it is another cluster, or was made for fewer workers
    try:
        _start(ray, wanted) if workers.address is None else _join(ray, workers.address)
    # Ray raises what it met first: ConnectionError, RuntimeError, ValueError, gRPC's own
    except Exception as error:
        what = "no Ray cluster answers there" if workers.address else "Ray did not start on this machine"
        cure = "check the address, its token (RAY_AUTH_TOKEN), and that both sides have the same Ray and Python"
        raise EngineError(
            f"--workers {workers.address or workers.count}: {what} ({last_line(error)}); "
            f"{cure if workers.address else 'try again when it is less busy, or leave --workers out'}"
        ) from None
    _connected["address"] = workers.address
    return ray


def _start(ray: Any, processors: int) -> None:
    """A cluster of this process's own, which comes up on a busy machine as well.

    Ray waits 30 s for the whole, and ends where its agents take more than 15 s to say which ports they have taken: here
    the whole is waited for longer, and the agents are told their ports.
    """
    from ray._private import services

    get_node: Any = services.get_node
    start_raylet: Any = services.start_raylet

    def patiently(*arguments: Any) -> Any:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:  # it is not there yet
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.2)

    def with_ports(*arguments: Any, **options: Any) -> Any:
        given = inspect.signature(start_raylet).bind(*arguments, **options).arguments
        ports = _free_ports()
        # this one cannot be given: Ray reads it from where the agent would write it
        note = Path(given["session_dir"], f"dashboard_agent_listen_port_{given['node_id']}")
        note.write_text(str(ports["dashboard_agent_listen_port"]))
        return start_raylet(*arguments, **options | ports)

    services.get_node, services.start_raylet = patiently, with_ports
    try:
        ray.init(
            address="local",  # and no other that happens to run here
            num_cpus=processors,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            object_store_memory=_OBJECT_STORE_BYTES,
            _system_config={"worker_register_timeout_seconds": _START_S},
        )
    finally:
        services.get_node, services.start_raylet = get_node, start_raylet


def _free_ports() -> dict[str, int]:
    """A free port for each of a machine's agents."""
    with ExitStack() as held:
        found = {}
        for name in _PORTS:
            listener = held.enter_context(socket.socket())
            listener.bind(("", 0))
            found[name] = listener.getsockname()[1]
    return found


def _join(ray: Any, address: str) -> None:
    """A cluster that is there."""
    _knock(address)
    own = {} if address.startswith("ray://") else {"configure_logging": False}
    ray.init(address=address, log_to_driver=False, **own)


def _knock(address: str) -> None:
    """Raises OSError where nobody listens: Ray would try for a minute."""
    if address.startswith("ray://"):
        host, _, port = address.removeprefix("ray://").rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def share(ray: Any, workers: Workers, options: Mapping[str, Any]) -> tuple[dict[str, float], int]:
    """(what a worker takes of the cluster, how many workers). Raises EngineError: there is no room for so many."""
    there = ray.cluster_resources()
    gpus, processors = int(there.get("GPU", 0)), int(there.get("CPU", 0))
    each = int(options.get("tensor_parallel_size") or 1) * int(options.get("pipeline_parallel_size") or 1)
    on_gpu = gpus > 0 and str(options.get("device", "auto")) != "cpu"
    room = gpus // each if on_gpu else processors
    count = workers.count or max(1, room)
    if count > room:
        raise EngineError(
            f"--workers: {count} workers do not fit, there is room for {room} ({gpus} GPUs, {processors} processors"
            f"{f', {each} GPUs each' if on_gpu and each > 1 else ''}); ask for fewer"
        )
    if on_gpu:
        return {"num_gpus": each, "num_cpus": min(1, processors // count)}, count
    return {"num_cpus": max(1, processors // count)}, count


def last_line(error: Exception) -> str:
    """The end of what an error says, which is where Ray puts the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
