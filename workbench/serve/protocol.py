"""What a client may send: OpenAI's request bodies, strict. Knows types and ranges; knows no model and no policy.

What would change an answer and is not done here (tools, JSON mode, audio) is refused by name; what would not change it
(`user`, `metadata`, ...) is taken and left alone.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_CHOICES = 8


def _is_unicode(text: str) -> str:
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError("half of a surrogate pair is no character")
    return text


Written = Annotated[str, AfterValidator(_is_unicode)]
"""Text that can be encoded: JSON's escapes can write what is none."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Stop = Annotated[Written, StringConstraints(min_length=1, max_length=200)]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class TextPart(_Strict):
    """A part of a message. Text only."""

    type: Literal["text"]
    text: Written


class Message(_Strict):
    """A turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Written | list[TextPart] | None = None
    name: str | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """Its content as one text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(_Strict):
    """What a stream ends with."""

    include_usage: bool = False
    include_obfuscation: bool = False


class _Generation(_Strict):
    """What chat and completions share."""

    model: str = ""
    """A name that `/v1/models` lists; empty takes the one that is served."""
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=100_000)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[Finite, Field(ge=-2, le=2)] | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @model_validator(mode="after")
    def _no_conflict(self) -> "_Generation":
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed with stream: true")
        return self

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class ChatRequest(_Generation):
    """Body of /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _chat_conflicts(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs is only allowed with logprobs: true")
        both = self.max_tokens is not None and self.max_completion_tokens is not None
        if both and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens say different things; give one")
        if self.messages[-1].role == "assistant":
            raise ValueError("the last message is the assistant's own; end with what is to be answered")
        if not any(message.text.strip() for message in self.messages):
            raise ValueError("all messages are empty")
        return self

    @property
    def limit(self) -> int | None:
        """Most tokens of an answer."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wanted_logprobs(self) -> int | None:
        """Likeliest tokens to tell beside each chosen one; None: no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None


class CompletionRequest(_Generation):
    """Body of /v1/completions. One prompt at a time: text or token ids."""

    prompt: Written | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] | list[Written]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: Literal[False] | None = None
    suffix: None = None
    best_of: Literal[1] | None = None

    @model_validator(mode="after")
    def _one_prompt(self) -> "CompletionRequest":
        if isinstance(self.prompt, list) and self.prompt and isinstance(self.prompt[0], str) and len(self.prompt) > 1:
            raise ValueError("prompt: one at a time is answered; send a request for each")
        if not self.prompt or self.prompt == [""]:
            raise ValueError("prompt is empty")
        return self

    @property
    def limit(self) -> int | None:
        """Most tokens of an answer; 16 as at OpenAI."""
        return self.max_tokens or 16

    @property
    def wanted_logprobs(self) -> int | None:
        """Likeliest tokens to tell beside each chosen one; None: no log-probabilities."""
        return self.logprobs


class ModerationPart(_Strict):
    """A text to be judged."""

    type: Literal["text"]
    text: Written


class ModerationRequest(_Strict):
    """Body of /v1/moderations."""

    input: (
        Written
        | Annotated[list[Written], Field(min_length=1, max_length=256)]
        | Annotated[list[ModerationPart], Field(min_length=1, max_length=256)]
    )
    model: str | None = None
    surface: Literal["user_input", "model_output", "content"] = "content"
    """Where the texts stand; an addition of ours."""
    context: dict[Literal["title", "parent", "community", "author"], Written] | None = None
    """What a judge is shown beside each text; an addition of ours."""
    rules: Annotated[list[Annotated[str, Field(min_length=1, max_length=4000)]], Field(max_length=100)] | None = None
    """Rules in plain words that hold beside the key's policy; an addition of ours."""

    @property
    def texts(self) -> list[str]:
        """The texts to be judged."""
        if isinstance(self.input, str):
            return [self.input]
        return [part if isinstance(part, str) else part.text for part in self.input]
