"""The routes: OpenAI's paths over a `Service`. Knows HTTP; judges and writes nothing itself."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Annotated, Any, TypeVar

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from safety.guard import Check, Guard
from safety.policy import doubt_of
from workbench import __version__
from workbench.errors import ConfigError
from workbench.serve.answering import Service
from workbench.serve.backend import Prompt, Sampling, Turn
from workbench.serve.faults import ApiError, install_handlers
from workbench.serve.limits import Border
from workbench.serve.protocol import ChatRequest, CompletionRequest, ModerationRequest
from workbench.serve.recording import Subject
from workbench.serve.tenants import Tenant, Tenants
from workbench.serve.wire import Form

MAX_WAITING = 512
"""Prompts that may wait for room; more are asked to come again."""
T = TypeVar("T")
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": what, "content": {"application/json": {"schema": {"type": "object"}}}}
    for status, what in {
        400: "the body is not valid, or does not fit",
        401: "no key, or one that is none",
        404: "no such model",
        413: "the body is too large",
        429: "too many requests or tokens",
        503: "overloaded or shutting down",
    }.items()
}


def create_app(service: Service, tenants: Tenants, *, max_bytes: int = 1_000_000, grace_s: float = 30.0) -> FastAPI:
    """The application. Its shut-down lets answers under way finish for `grace_s`."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close(grace_s)

    app = FastAPI(
        title="workbench", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan, redirect_slashes=False
    )
    app.state.service, app.state.tenants, app.state.started = service, tenants, int(time.time())
    install_handlers(app)
    border: Any = Border
    app.add_middleware(border, metrics=service.metrics, max_bytes=max_bytes, keyless=tenants.is_open)
    for path, function in (("chat/completions", _chat), ("completions", _completions), ("moderations", _moderations)):
        app.add_api_route(f"/v1/{path}", function, methods=["POST"], responses=_ERRORS)
    app.add_api_route("/v1/models", _models, methods=["GET"], responses={401: _ERRORS[401]})
    app.add_api_route("/v1/models/{name:path}", _model, methods=["GET"], responses={n: _ERRORS[n] for n in (401, 404)})
    app.add_api_route("/healthz", _health, methods=["GET"])
    app.add_api_route("/metrics", _metrics, methods=["GET"])
    return app


def _tenant(request: Request) -> Tenant:
    """Who asks. Raises 401 for a key that is none."""
    tenant = request.app.state.tenants.find(request.headers.get("authorization", ""))
    if tenant is None:
        raise ApiError(
            401,
            "no valid API key; send it as Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )
    request.state.tenant = tenant.name
    return tenant


Asking = Annotated[Tenant, Depends(_tenant)]


async def _chat(request: Request, body: ChatRequest, tenant: Asking) -> Response:
    """Answer a conversation."""
    turns = [Turn(role=_role(message.role), text=message.text) for message in body.messages]
    if tenant.system is not None:
        if any(turn.role == "system" for turn in turns):
            raise ApiError(
                400, "messages: this key's system message is set by the operator; send none", param="messages"
            )
        turns.insert(0, Turn(role="system", text=tenant.system))
    return await _answer(request, body, tenant, Prompt(turns=tuple(turns)), chat=True)


async def _completions(request: Request, body: CompletionRequest, tenant: Asking) -> Response:
    """Continue a text."""
    given = body.prompt
    if isinstance(given, str):
        prompt = Prompt(text=given)
    elif isinstance(given[0], str):
        prompt = Prompt(text=given[0])
    else:
        prompt = Prompt(ids=tuple(int(i) for i in given))
    return await _answer(request, body, tenant, prompt, chat=False)


async def _answer(
    request: Request, body: ChatRequest | CompletionRequest, tenant: Tenant, prompt: Prompt, *, chat: bool
) -> Response:
    service: Service = request.app.state.service
    _check_model(service, body.model)
    sampling = _sampling(body)
    leave = _enter(service, tenant)
    try:
        subject = Subject(
            request=request.state.request_id,
            tenant=tenant.name,
            community=tenant.community,
            model=service.backend.model,
            context=tenant.context,
        )
        exchange = await service.open(tenant, subject, prompt, sampling, body.n or 1)
        name = f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}"
        form = Form(exchange, name, service.backend.model, chat, sampling.logprobs is not None)
        headers = _policy_headers(service.guard_of(tenant))

        def settle() -> None:
            leave()
            service.metrics.tokens.labels("completion").inc(exchange.new_tokens)
            if tenant.tokens is not None:
                tenant.tokens.spend(exchange.prompt_tokens + exchange.new_tokens)

        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            events = _settled(form.stream(include_usage=usage), settle, service)
            leave = _nothing  # the stream settles
            headers |= {"cache-control": "no-cache", "x-accel-buffering": "no"}
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        try:
            whole = await _while_connected(request, form.whole())
        finally:
            settle()
            leave = _nothing
        return JSONResponse(whole, headers=headers)
    finally:
        leave()


async def _settled(
    events: AsyncGenerator[bytes, None], settle: Callable[[], None], service: Service
) -> AsyncGenerator[bytes, None]:
    """The events; `settle` at their end, however it comes."""
    start, first = time.perf_counter(), True
    try:
        async with contextlib.aclosing(events):
            async for event in events:
                if first:
                    service.metrics.first.observe(time.perf_counter() - start)
                    first = False
                yield event
    finally:
        settle()


async def _while_connected(request: Request, work: Awaitable[T]) -> T:
    """The work's result; it is cancelled when the client goes away."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client closed the connection")
        return task.result()
    finally:
        for one in (task, watcher):
            one.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _moderations(request: Request, body: ModerationRequest, tenant: Asking) -> Response:
    """Judge texts by the categories of the key's policy."""
    service: Service = request.app.state.service
    guard = service.guard_of(tenant)
    if guard is None:
        raise ApiError(404, "this server has no policy to judge by", code="no_policy")
    try:
        guard = guard.with_rules(body.rules or ())
    except ConfigError as error:
        raise ApiError(400, f"rules: {error}", param="rules") from None
    shown = {str(name): text for name, text in (body.context or {}).items()}
    leave = _enter(service, tenant)
    try:
        subject = Subject(
            request=request.state.request_id,
            tenant=tenant.name,
            community=tenant.community,
            model="",
            context=tenant.context,
        )
        checks = await asyncio.gather(
            *(guard.check(text, body.surface, context=tenant.context, shown=shown) for text in body.texts)
        )
        for text, check in zip(body.texts, checks, strict=True):
            await service.record(check, guard, subject, text=text, prompt="", surface=body.surface)
    finally:
        leave()
    answer = {
        "id": f"modr-{secrets.token_hex(12)}",
        "model": guard.policy.name,
        "policy_hash": guard.policy.hash,
        "results": [_moderation(check, guard) for check in checks],
    }
    return JSONResponse(answer, headers=_policy_headers(guard))


def _moderation(check: Check, guard: Guard) -> dict[str, Any]:
    """OpenAI's three fields, then ours. A text that could not be judged is flagged: it is not safe."""
    found = {outcome.category: outcome for outcome in check.decision.outcomes}
    names = list(guard.policy.categories)
    return {
        "flagged": any(o.value in ("violates", "unscorable") for o in found.values()) or check.failed,
        "categories": {name: name in found and found[name].value == "violates" for name in names},
        "category_scores": {name: found[name].probability if name in found else None for name in names},
        "category_doubts": {name: doubt_of(found[name]) if name in found else None for name in names},
        "category_values": {name: found[name].value if name in found else "not_judged" for name in names},
        "action": check.decision.action,
        "reason": check.decision.reason,
    }


async def _models(request: Request, tenant: Asking) -> dict[str, Any]:
    """What is served."""
    return {"object": "list", "data": [_describe_model(request)]}


async def _model(request: Request, name: str, tenant: Asking) -> dict[str, Any]:
    """One model by its name."""
    _check_model(request.app.state.service, name)
    return _describe_model(request)


async def _health(request: Request) -> dict[str, Any]:
    """That the server runs, and how busy it is."""
    load = request.app.state.service.backend.load()
    return {"status": "ok", "running": load.running, "waiting": load.waiting}


async def _metrics(request: Request) -> Response:
    """Prometheus' page."""
    return Response(request.app.state.service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _describe_model(request: Request) -> dict[str, Any]:
    backend = request.app.state.service.backend
    return {"id": backend.model, "object": "model", "created": request.app.state.started, "owned_by": "workbench"}


def _check_model(service: Service, name: str) -> None:
    if name and name != service.backend.model:
        message = f"no such model here; the one that is served is {service.backend.model}"
        raise ApiError(404, message, code="model_not_found", param="model")


def _enter(service: Service, tenant: Tenant) -> Callable[[], None]:
    """Take a place, or raise 429 or 503; the function that is returned gives it back."""
    if service.backend.load().waiting >= MAX_WAITING:
        raise ApiError(503, "too many prompts wait already; ask again", code="overloaded", headers={"retry-after": "5"})
    if tenant.concurrent is not None and tenant.running >= tenant.concurrent:
        message = f"this key may have {tenant.concurrent} requests under way at the same time"
        raise ApiError(429, message, code="rate_limit_exceeded", headers={"retry-after": "1"})
    for bucket, what in ((tenant.requests, "requests"), (tenant.tokens, "tokens")):
        wait_s = bucket.take(1.0 if what == "requests" else 0.0) if bucket is not None else 0.0
        if bucket is not None and wait_s:
            message = f"this key may spend {bucket.per_minute:g} {what} a minute"
            raise ApiError(429, message, code="rate_limit_exceeded", headers={"retry-after": str(int(wait_s) + 1)})
    tenant.running += 1
    done = False

    def leave() -> None:
        nonlocal done
        if not done:
            done = True
            tenant.running -= 1

    return leave


def _nothing() -> None:
    pass


def _policy_headers(guard: Guard | None) -> dict[str, str]:
    return {} if guard is None else {"x-policy": guard.policy.name, "x-policy-hash": guard.policy.hash}


def _role(role: str) -> str:
    return "system" if role == "developer" else role


def _sampling(body: ChatRequest | CompletionRequest) -> Sampling:
    chosen: Mapping[str, Any] = {
        name: value
        for name in ("temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty", "seed")
        if (value := getattr(body, name)) is not None
    }
    return Sampling(max_tokens=body.limit, stop=body.stops, logprobs=body.wanted_logprobs, **chosen)
