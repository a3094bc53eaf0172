"""A conversation as the tokens that the policy really read and wrote. Knows a chat template; knows no model.

What the policy wrote is kept by its ids; only what is new to it is rendered. The ids are never decoded and encoded
again, so no text can come back as other tokens than those that were drawn.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from training.rl.episodes import Strand
from workbench.errors import ConfigError

Message = dict[str, Any]
TOOLS = (
    'You may call tools. Write a call as <tool_call>{"name": ..., "arguments": {...}}</tool_call> and wait for its '
    "<tool_response>. Answer without a call when you are done. The tools:"
)
"""What a policy is told of tools whose chat template knows none (the form of Hermes and Qwen)."""
STAND_IN = "0"
"""Content of an answer whose tokens are known, where only what follows it is rendered."""


@dataclass(kw_only=True)
class Template:
    """A tokenizer's chat template, used so that what was said before stays as it is."""

    tokenizer: Any

    def __post_init__(self) -> None:
        if not getattr(self.tokenizer, "chat_template", None):
            raise ConfigError(
                "this model's tokenizer has no chat template, so a prompt cannot be put to it; put one into its "
                "tokenizer_config.json"
            )

    @property
    def knows_tools(self) -> bool:
        """Whether the template itself can say which tools there are."""
        return "tools" in str(self.tokenizer.chat_template)

    def shown(self, message: Message) -> Message:
        """A message as the template takes it: to one that knows no tools, a tool's answer is what a user says."""
        content = text_of(message)
        if message.get("role") == "tool" and not self.knows_tools:
            return {"role": "user", "content": f"<tool_response>{content}</tool_response>"}
        return {**message, "content": content}

    def opening(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """A conversation from its beginning, up to where the policy speaks."""
        if tools and not self.knows_tools:
            messages, tools = with_tools(messages, tools), ()
        return self._ids(self._render(messages, tools, opens=True))

    def going_on(self, drawn: Sequence[int], new: Sequence[Message]) -> list[int]:
        """What is told after an answer, up to where the policy speaks again: the answer's end, and the new messages.

        Args:
            drawn: tokens of the answer. An end that it drew itself is not told once more.
            new: messages that follow it.

        Raises ConfigError: the template rewrites what was said before.
        """
        before: list[Message] = [{"role": "user", "content": STAND_IN}, {"role": "assistant", "content": STAND_IN}]
        said, after = self._render(before, (), opens=False), self._render([*before, *new], (), opens=True)
        opened = self._render(before[:1], (), opens=True)
        if not after.startswith(said) or not said.startswith(opened + STAND_IN):
            raise ConfigError(
                "this model's chat template rewrites earlier turns, so several turns cannot be trained as they were "
                "read; give it a template that only adds to what was said"
            )
        end = self._ids(said[len(opened) + len(STAND_IN) :])
        if end and drawn and drawn[-1] == end[0]:  # it ended itself
            end = end[1:]
        return [*end, *self._ids(after[len(said) :])]

    def _render(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], *, opens: bool) -> str:
        more = {"tools": [dict(tool) for tool in tools]} if tools else {}
        return self.tokenizer.apply_chat_template(
            [dict(one) for one in messages], tokenize=False, add_generation_prompt=opens, **more
        )

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []


@dataclass(kw_only=True)
class Conversation:
    """One strand of an episode: its tokens, and the messages that they stand for."""

    template: Template
    strand: Strand = field(default_factory=Strand)
    messages: list[Message] = field(default_factory=list)
    _last: list[int] = field(default_factory=list)

    def continues(self, messages: Sequence[Message]) -> bool:
        """Whether these are what was said here, and more."""
        said = len(self.messages)
        return len(messages) > said and all(
            same(one, other) for one, other in zip(self.messages, messages[:said], strict=True)
        )

    def upcoming(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """Tokens that the policy is told by the whole conversation so far, beyond those that it knows."""
        new = [self.template.shown(one) for one in messages[len(self.messages) :]]
        return self.template.going_on(self._last, new) if self.messages else self.template.opening(new, tools)

    def tell(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> None:
        """Take in the whole conversation so far, of which what was said here is the beginning."""
        self.strand.tell(self.upcoming(messages, tools))
        self.messages.extend(messages[len(self.messages) :])

    def draw(self, tokens: Sequence[int], logprobs: Sequence[float], answer: str | Message) -> None:
        """Take in the policy's answer, as text or as the message that others are shown."""
        self.strand.draw(tokens, logprobs)
        self._last = list(tokens)
        self.messages.append({"role": "assistant", "content": answer} if isinstance(answer, str) else answer)


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two messages say the same; what is empty counts as not there."""
    return _plain(one) == _plain(other)


def text_of(message: Mapping[str, Any]) -> str:
    """What a message says; OpenAI's parts are put together."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return str(content or "")


def with_tools(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The conversation with a first message that says which tools there are, and how they are called."""
    told = "\n".join([TOOLS, *(json.dumps(tool) for tool in tools)])
    first, rest = messages[0], list(messages[1:])
    if first.get("role") == "system":
        return [{"role": "system", "content": f"{text_of(first)}\n\n{told}"}, *rest]
    return [{"role": "system", "content": told}, first, *rest]


def _plain(message: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in message.items() if value and key in ("role", "name", "tool_call_id")}
    return json.dumps({**kept, "content": text_of(message)}, sort_keys=True)
