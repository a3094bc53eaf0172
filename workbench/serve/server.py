"""From a checkpoint, a policy and a keys file to a running server. Knows the parts and how they are put together."""

import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ConfigError, RunError, did_you_mean
from workbench.references import resolve_checkpoint
from workbench.serve.tenants import Tenants
from workbench.store import Project

if TYPE_CHECKING:
    from fastapi import FastAPI

    from safety.guard import Guard
    from safety.judges import Judge


@dataclass(frozen=True, kw_only=True, slots=True)
class ServeOptions:
    """What a server is started with."""

    checkpoint: str
    policy: str | None = None
    """For everybody, where there are no keys."""
    keys: Path | None = None
    judges: tuple[str, ...] = ()
    """`NAME=classifier` or `NAME=model:CHECKPOINT`: other judges for those of the policies."""
    engine: str | None = None
    name: str | None = None
    """What clients call the model; default: the checkpoint's name."""
    host: str = "127.0.0.1"
    port: int = 8000
    max_bytes: int = 1_000_000
    grace_s: float = 30.0
    allowed: tuple[str, ...] = ()
    """Hosts that prompts may be sent to, besides the project's."""
    engine_options: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """A server that is ready to run."""

    app: "FastAPI"
    model: str
    engine: str
    tenants: Tenants
    policies: Mapping[str, str]
    """Tenant -> name@version and hash of its policy."""
    notes: tuple[str, ...] = ()


def build_server(options: ServeOptions, project: Project) -> Built:
    """Check everything and load the model; nothing listens yet.

    Raises:
        ConfigError: keys, policies or judges are faulty; an address for everybody without keys.
        CheckpointError, EngineError: the model cannot be served.
    """
    from workbench.serve.answering import Service
    from workbench.serve.app import create_app
    from workbench.serve.backend import load_backend
    from workbench.serve.metrics import Metrics
    from workbench.serve.recording import Recorder

    if options.keys is None and not is_loopback(options.host):
        raise ConfigError(
            f"--host {options.host}: without --keys everybody who reaches it could ask; give --keys, or leave "
            "--host out"
        )
    if options.keys is not None:
        if options.policy is not None:
            raise ConfigError("--policy: tenants have theirs in the keys file; leave one of the two out")
        tenants = Tenants.load(options.keys)
    else:
        tenants = Tenants.open_to_all(options.policy or "")
    guards = build_guards(tenants, options.judges, project)
    _keep_guidelines(guards, tenants, project)
    checkpoint = resolve_checkpoint(options.checkpoint, project)
    extra = dict(options.engine_options or {})
    if checkpoint.kind == "endpoint":
        extra["allowed"] = (*project.config.allowed_endpoints, *options.allowed)
    model = options.name or checkpoint.name
    backend = load_backend(checkpoint, engine=options.engine, model=model, options=extra)
    service = Service(backend=backend, guards=guards, recorder=Recorder(project.store), metrics=Metrics(backend.load))
    app = create_app(service, tenants, max_bytes=options.max_bytes, grace_s=options.grace_s)
    policies = {t.name: f"{guards[t.policy].policy.name} {guards[t.policy].policy.hash[:12]}" for t in tenants.all}
    notes = tuple(dict.fromkeys(note for guard in guards.values() for note in guard.policy.notes))
    return Built(app=app, model=model, engine=backend.engine, tenants=tenants, policies=policies, notes=notes)


def _keep_guidelines(guards: Mapping[str, "Guard"], tenants: Tenants, project: Project) -> None:
    """Whoever reviews what a guard sends to people reads the rules that the guard went by, as often as these say."""
    from safety.review.queue import Operator, ReviewQueue

    queue = ReviewQueue.open(project)
    operator = Operator(name="serve")
    for guard in guards.values():
        queue.put_guideline(operator, guard.policy)
    for tenant in tenants.all:
        policy = guards[tenant.policy].policy
        queue.follow_policy(operator, f"{tenant.name}/{policy.review.get('queue') or 'default'}", policy)


def build_guards(tenants: Tenants, judges: Sequence[str], project: Project) -> dict[str, "Guard"]:
    """A guard for each policy that some tenant has; tenants of one policy share its judges.

    Raises:
        ConfigError: a policy, a judge, or an order to replace one is faulty.
    """
    from safety.guard import load_guard

    others = dict(_other_judge(text, project) for text in judges)
    guards = {policy: load_guard(policy, others) for policy in dict.fromkeys(t.policy for t in tenants.all)}
    used = {name for guard in guards.values() for name in guard.policy.judges}
    for name in others:
        if name not in used:
            raise ConfigError(f"--judge {name}: no policy here has a judge of that name; {did_you_mean(name, used)}")
    return guards


def _other_judge(text: str, project: Project) -> tuple[str, "Judge"]:
    """`NAME=classifier[:FOLDER]` or `NAME=model:CHECKPOINT` as a judge of that name."""
    from safety.judges import build_judge

    name, equals, kind = text.partition("=")
    kind, _, argument = kind.partition(":")
    if name and equals and kind == "classifier":
        return name, build_judge(name, "classifier", {"path": argument} if argument else {})
    if name and equals and kind == "model" and argument:
        from workbench.engines.loading import load

        return name, build_judge(name, "model", {"engine": load(resolve_checkpoint(argument, project))})
    raise ConfigError(f"--judge {text}: expected NAME=classifier, NAME=classifier:FOLDER or NAME=model:CHECKPOINT")


def run_server(built: Built, options: ServeOptions, *, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; answers under way are finished.

    Raises:
        RunError: the port is taken, or may not be used.
    """
    run_app(built.app, host=options.host, port=options.port, grace_s=options.grace_s, on_ready=on_ready)


def run_app(app: "FastAPI", *, host: str, port: int, grace_s: float, on_ready: Callable[[str], None]) -> None:
    """Serve an application until SIGINT or SIGTERM; `on_ready` is told its URL, up to `/v1`.

    Raises:
        RunError: the port is taken, or may not be used.
    """
    import uvicorn

    listener = _listen(host, port)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(grace_s)),
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = uvicorn.Server(config)
    with listener:
        listener.listen(config.backlog)  # from here on clients are taken, if not answered yet
        on_ready(_url(listener))
        server.run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunError(f"{host}:{port}: cannot listen here ({reason}); choose another --port or --host") from None
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
