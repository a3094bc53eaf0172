"""The policy in training as an OpenAI-compatible endpoint, and its episodes to be claimed: for orchestrators elsewhere.

    POST /v1/episodes            claim some (key of the run)
    POST /v1/chat/completions    an answer of the policy (key of the episode)
    POST /v1/episodes/reward     a reward on the way (key of the episode)
    POST /v1/episodes/finish     the end, with rewards, or with an error (key of the episode)

The protocol is in docs/reinforcement.md. Knows HTTP and the desk; what is learned from is not known here.
"""

import asyncio
import contextlib
import ipaddress
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training.checkpoints import write_whole
from training.rl.collect import Task
from training.rl.conversation import Message
from training.rl.desk import Attempt, Desk, Refused
from training.rl.environments import read_calls
from training.rl.episodes import Episode
from training.rl.options import Orchestrated, Reinforce
from training.rl.sampling import Ask, Drawn, Policy, seed_of
from workbench.errors import ConfigError, EngineError, RunError

PROTOCOL = "workbench.rollout/1"
FILE = "orchestrator.json"
"""In the run's folder: URL and key, for processes of the same user."""
MOST_BYTES = 8 << 20
LONGEST_WAIT_S = 30.0
POLL_S = 0.1


class Gateway:
    """A server in a thread of its own, over a policy. Close it."""

    def __init__(self, policy: Policy, options: Reinforce, *, run: str, folder: Path) -> None:
        """Raises ConfigError: an address for others without a key, or one that is taken."""
        assert options.orchestrator is not None
        self.policy, self.options, self.asked, self.run = policy, options, options.orchestrator, run
        self.desk = Desk(self.asked, policy.template)
        self.generation = 0
        self.key = run_key(self.asked)
        self._socket = _listen(self.asked)
        host = self.asked.host if self.asked.host not in ("0.0.0.0", "::") else "127.0.0.1"  # noqa: S104  # asked for
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        self._file = folder / FILE
        _tell(self._file, {"protocol": PROTOCOL, "run": run, "url": self.url, "key": self.key})
        self._server, self._thread = self._serve()

    def close(self) -> None:
        """Tell orchestrators that it is over, then stop."""
        self._file.unlink(missing_ok=True)
        self.desk.finish_all()
        time.sleep(3 * POLL_S)  # those that wait for an episode hear it
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    def _serve(self) -> tuple[Any, threading.Thread]:
        import uvicorn

        config = uvicorn.Config(self._app(), log_level="error", lifespan="off", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: server.run(sockets=[self._socket]), name="gateway", daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        return server, thread

    def _app(self) -> Any:
        from starlette.applications import Starlette
        from starlette.routing import Route

        def route(path: str, handler: Callable[[str, dict[str, Any], Any], Any]) -> Any:
            return Route(path, self._guarded(handler), methods=["POST"])

        return Starlette(
            routes=[
                route("/v1/episodes", self._claim),
                route("/v1/chat/completions", self._chat),
                route("/v1/episodes/reward", self._reward),
                route("/v1/episodes/finish", self._finish),
            ]
        )

    def _guarded(self, handler: Callable[[str, dict[str, Any], Any], Any]) -> Callable[[Any], Any]:
        from starlette.responses import JSONResponse

        async def answer(request: Any) -> Any:
            try:
                kind, _, key = request.headers.get("authorization", "").partition(" ")
                if kind.lower() != "bearer" or not key:
                    raise Refused(401, "no_key", "send the key as Authorization: Bearer KEY")
                return JSONResponse(await handler(key.strip(), await _body(request), request))
            except Refused as error:
                status, code, text = error.status, error.code, str(error)
            except (EngineError, ConfigError) as error:
                status, code, text = 400, "invalid_request", str(error)
            more = {"Retry-After": "1"} if status == 429 else {}
            fault = {"message": text, "type": "invalid_request_error", "code": code}
            return JSONResponse({"error": fault}, status_code=status, headers=more)

        return answer

    async def _claim(self, key: str, body: dict[str, Any], _: Any) -> dict[str, Any]:
        if not secrets.compare_digest(key.encode(), self.key.encode()):
            raise Refused(401, "wrong_key", "this is not the run's key")
        if body.get("protocol") != PROTOCOL:
            raise Refused(400, "protocol", f"protocol {body.get('protocol')!r}; this run speaks {PROTOCOL!r}")
        most, wait = body.get("max", 1), body.get("wait_s", 20)
        if not isinstance(most, int) or most < 1 or not isinstance(wait, int | float) or wait < 0:
            raise Refused(422, "invalid", "max: an integer of at least 1; wait_s: seconds of at least 0")
        until = time.monotonic() + min(float(wait), LONGEST_WAIT_S)
        # many wait here for long: a thread each would keep those from being served that have an episode
        while not (found := self.desk.claim(most)) and not self.desk.over and time.monotonic() < until:
            await asyncio.sleep(POLL_S)
        episodes = [self._told(one) for one in found]
        return {"protocol": PROTOCOL, "run": self.run, "episodes": episodes, "over": self.desk.over}

    def _told(self, attempt: Attempt) -> dict[str, Any]:
        return {
            "id": attempt.task.id,
            "attempt": attempt.number,
            "key": attempt.key,
            "base_url": f"{self.url}/v1",
            "model": "policy",
            "deadline_s": self.asked.deadline_s,
            "row": json.loads(json.dumps(dict(attempt.task.record), default=str)),
            "messages": [dict(one) for one in attempt.task.messages],
        }

    async def _reward(self, key: str, body: dict[str, Any], _: Any) -> dict[str, Any]:
        name, identity = str(body.get("name") or "reward"), str(body.get("id") or secrets.token_hex(8))
        self.desk.reward(key, name, body.get("reward"), identity)
        return {"taken": True}

    async def _finish(self, key: str, body: dict[str, Any], _: Any) -> dict[str, Any]:
        rewards, metrics = body.get("rewards") or {}, body.get("metrics") or {}
        if not isinstance(rewards, dict) or not isinstance(metrics, dict):
            raise Refused(422, "invalid", "rewards and metrics are objects of numbers")
        if body.get("reward") is not None:
            rewards = {**rewards, "reward": body["reward"]}
        self.desk.finish(key, rewards, metrics, str(body.get("error") or ""))
        return {"finished": True}

    async def _chat(self, key: str, body: dict[str, Any], request: Any) -> dict[str, Any]:
        attempt = self.desk.attempt(key)
        name = request.headers.get("idempotency-key")
        if not name:
            return await self._answer(attempt, body)
        if name not in attempt.calls:
            attempt.calls[name] = asyncio.ensure_future(self._answer(attempt, body))
        return await asyncio.shield(attempt.calls[name])  # whoever hangs up may ask again

    async def _answer(self, attempt: Attempt, body: dict[str, Any]) -> dict[str, Any]:
        messages, tools = _messages(body), _tools(body)
        talk, prompt, turn = self.desk.begin_call(attempt, messages, tools)
        taken = None
        try:
            most = self._room(prompt, body)
            seed = seed_of(attempt.task.seed, turn, *([attempt.number] if attempt.number else []))
            drawn = await self._drawn(Ask(prompt=prompt, max_tokens=most, seed=seed, stop=_stop(body)))
            message = _message(drawn, has_tools=bool(tools))
            taken = drawn.tokens, drawn.logprobs, message, drawn.cut
        finally:
            self.desk.end_call(attempt, talk, messages, tools, taken)
        return self._completion(attempt, prompt, drawn, message, turn)

    def _room(self, prompt: Sequence[int], body: dict[str, Any]) -> int:
        wanted = body.get("max_completion_tokens") or body.get("max_tokens") or self.options.max_tokens
        if not isinstance(wanted, int) or wanted < 1:
            raise Refused(422, "invalid", "max_tokens: an integer of at least 1")
        window = min(self.options.max_episode_tokens or self.policy.window, self.policy.window)
        room = window - len(prompt)
        if room < 1:
            text = f"the conversation has {len(prompt)} tokens, and {window} is the most; finish the episode"
            raise Refused(400, "context_length_exceeded", text)
        return min(wanted, self.options.max_tokens, room)

    async def _drawn(self, ask: Ask) -> Drawn:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Drawn] = loop.create_future()

        def done(drawn: Drawn) -> None:
            loop.call_soon_threadsafe(lambda: None if future.done() else future.set_result(drawn))

        self.policy.ask(ask, done)
        drawn = await future
        if drawn.error:
            raise Refused(503, "engine", drawn.error)
        return drawn

    def _completion(
        self, attempt: Attempt, prompt: Sequence[int], drawn: Drawn, message: Message, turn: int
    ) -> dict[str, Any]:
        finish = "length" if drawn.cut else "tool_calls" if message.get("tool_calls") else "stop"
        return {
            "id": f"{attempt.task.id}-{attempt.number}-{turn}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": "policy",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {
                "prompt_tokens": len(prompt),
                "completion_tokens": len(drawn.tokens),
                "total_tokens": len(prompt) + len(drawn.tokens),
            },
            "workbench": {"token_ids": drawn.tokens, "logprobs": drawn.logprobs, "turn": turn},
        }


class OrchestratedDriver:
    """Episodes that other processes drive."""

    def __init__(self, policy: Policy, options: Reinforce, *, run: str, folder: Path) -> None:
        self.policy, self.options = policy, options
        self.gateway = Gateway(policy, options, run=run, folder=folder)

    def drive(self, tasks: Sequence[Task]) -> list[Episode]:
        """As in Driver."""
        assert self.options.orchestrator is not None
        with self.policy.awake():
            self.gateway.desk.open(tasks)
            found = self.gateway.desk.wait(len(tasks))
        if found is None:
            raise RunError(
                f"rollouts: nobody has claimed an episode for {self.options.orchestrator.patience_s:g} s; start your "
                f"orchestrator for {self.gateway.url} (its key is in the run's {FILE}), then the same command goes on"
            )
        return found

    def close(self) -> None:
        """Stop the server, let go of the policy."""
        self.gateway.close()
        self.policy.close()


def run_key(options: Orchestrated) -> str:
    """The key that lets a process claim episodes. Raises ConfigError: an address for others without one."""
    key = os.environ.get(options.key_env, "")
    if not key and not _is_loopback(options.host):
        raise ConfigError(
            f"rl.orchestrator.host: {options.host}: others could claim episodes; set {options.key_env} to a key, or "
            "listen on 127.0.0.1"
        )
    return key or secrets.token_urlsafe(24)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(options: Orchestrated) -> socket.socket:
    try:
        return socket.create_server((options.host, options.port), backlog=256)
    except OSError as error:
        where = f"rl.orchestrator.port: {options.host}:{options.port}"
        raise ConfigError(f"{where}: cannot listen there ({error.strerror}); choose another, or 0 for any") from None


def _tell(path: Path, record: dict[str, Any]) -> None:
    """For this user alone: it holds a key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(record) + "\n")
    with contextlib.suppress(OSError):
        path.chmod(0o600)


async def _body(request: Any) -> dict[str, Any]:
    text = b""
    async for part in request.stream():
        text += part
        if len(text) > MOST_BYTES:
            raise Refused(413, "too_long", f"at most {MOST_BYTES:,} bytes")
    try:
        found = json.loads(text or b"{}")
    except (ValueError, RecursionError):
        raise Refused(400, "no_json", "the body is no JSON") from None
    if not isinstance(found, dict):
        raise Refused(400, "no_json", "the body is no JSON object")
    return found


def _messages(body: dict[str, Any]) -> list[Message]:
    found: Any = body.get("messages")
    if body.get("stream") or body.get("n") not in (None, 1):
        raise Refused(400, "unsupported", "one answer at a time, not streamed; ask again for another")
    good = (
        isinstance(found, list) and found and all(isinstance(m, dict) and isinstance(m.get("role"), str) for m in found)
    )
    if not good:
        raise Refused(422, "invalid", "messages: a list of {role, content}")
    if found[-1]["role"] == "assistant":
        raise Refused(422, "invalid", "messages: the last is the policy's own; put to it what it should answer")
    return [dict(one) for one in found]


def _tools(body: dict[str, Any]) -> list[dict[str, Any]]:
    found = body.get("tools") or []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise Refused(422, "invalid", "tools: a list of objects")
    return found


def _stop(body: dict[str, Any]) -> tuple[str, ...]:
    found = body.get("stop") or []
    found = [found] if isinstance(found, str) else found
    if not isinstance(found, list) or not all(isinstance(one, str) and one for one in found):
        raise Refused(422, "invalid", "stop: a text, or a list of texts")
    return tuple(found)


def _message(drawn: Drawn, *, has_tools: bool) -> Message:
    """As OpenAI shows it; where tools were named, calls stand apart as well as in the text."""
    message: Message = {"role": "assistant", "content": drawn.text}
    calls = read_calls(drawn.text) if has_tools and not drawn.cut else []
    if calls:
        message["tool_calls"] = [
            {
                "id": f"call_{at}",
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(dict(call.arguments))},
            }
            for at, call in enumerate(calls)
        ]
    return message
