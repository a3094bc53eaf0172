"""A real server on a real socket of this machine, with a tiny real model, in a thread of the test process."""

import contextlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import uvicorn

from tests.tiny import tiny_model, tiny_tokenizer
from workbench.engines.causal_model import CausalModel
from workbench.engines.continuous import ContinuousBatcher
from workbench.engines.transformers_engine import TransformersEngine
from workbench.serve.answering import Service
from workbench.serve.app import create_app
from workbench.serve.backend import Backend, LocalBackend
from workbench.serve.metrics import Metrics
from workbench.serve.recording import Recorder
from workbench.serve.tenants import Tenants
from workbench.store import Store


def tiny_backend(**options: Any) -> LocalBackend:
    model = CausalModel(tiny_model(), device=torch.device("cpu"), weights="float32", arithmetic="float32")
    return LocalBackend(ContinuousBatcher(TransformersEngine(model, tiny_tokenizer()), **options), "tiny")


@contextlib.contextmanager
def serving(
    backend: Backend,
    *,
    guards: Mapping[str, Any] | None = None,
    tenants: Tenants | None = None,
    store: Store | None = None,
    **options: Any,
) -> Iterator[str]:
    """The base URL (".../v1") of a server that runs within the block."""
    recorder = Recorder(store) if store is not None else None
    service = Service(backend=backend, guards=guards or {}, recorder=recorder, metrics=Metrics(backend.load))
    app = create_app(service, tenants or Tenants.open_to_all("none"), **options)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
        assert thread.is_alive(), "the server did not start"
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(60)
