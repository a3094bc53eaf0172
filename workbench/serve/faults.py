"""Errors as OpenAI's clients know them. Knows status codes and wording; knows no route.

Nothing of a prompt, a key or a traceback is ever part of an answer: what is unexpected is logged here and named by its
request id there.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from workbench.errors import RunError, StoreError

log = logging.getLogger("workbench.serve")
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer that is an error. `param` is the field at fault, `code` a word for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object that says it."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        param = None if self.param is None else _encodable(self.param)
        return {"error": {"message": _encodable(self.message), "type": kind, "param": param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The HTTP answer."""
        return JSONResponse(self.body, self.status, headers=self.headers)


def install_handlers(app: FastAPI) -> None:
    """Give every way to fail its answer in OpenAI's format."""

    async def on_api_error(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.response()

    async def on_invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return invalid_body(error.errors()).response()

    async def on_http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        message = {404: "no such path", 405: "this path does not know the method"}.get(error.status_code)
        code = "invalid_json" if error.status_code == 400 else None
        return ApiError(error.status_code, message or str(error.detail), code=code, headers=error.headers).response()

    async def on_unavailable(_: Request, error: Exception) -> JSONResponse:
        # Nothing is wrong with what was asked: the same call may come again. Where the store is stays in our own log.
        log.error("%s", error)
        told = "the store cannot be reached or written just now; send the same call again"
        return ApiError(503, told, code="unavailable", headers={"retry-after": "2"}).response()

    app.add_exception_handler(RunError, on_unavailable)
    app.add_exception_handler(StoreError, on_unavailable)
    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)


def invalid_body(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """All faults of a body in one message: where, what. What was sent is not repeated."""
    lines, first = [], None
    for error in errors[:8]:
        kind = str(error.get("type", ""))
        where = ".".join(str(step) for step in error.get("loc", ()) if step != "body" and not _is_branch(step))
        if kind == "json_invalid":
            reason = str((error.get("ctx") or {}).get("error", ""))[:80]
            return ApiError(400, f"the body is no JSON: {reason}", code="invalid_json")
        what = "is not known here" if kind == "extra_forbidden" else str(error.get("msg", "is not valid"))[:200]
        first = first or where or None
        lines.append(f"{where or 'body'}: {what}")
    more = f"; and {len(errors) - 8} more" if len(errors) > 8 else ""
    return ApiError(400, "; ".join(dict.fromkeys(lines)) + more, code="invalid_value", param=first)


def _is_branch(step: object) -> bool:
    """Names of a union's branches stand among pydantic's steps; a client knows none of them."""
    return isinstance(step, str) and ("[" in step or step in ("str", "int", "float"))


def _encodable(text: str) -> str:
    """Names of unknown fields are the client's, and JSON's escapes can write what is no character."""
    return text.encode("utf-8", "replace").decode()
