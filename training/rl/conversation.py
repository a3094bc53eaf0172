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
STAND_IN = "0"
"""Content of an answer whose tokens are known, where only what follows it is rendered."""


@dataclass(kw_only=True)
class Template:
    """A tokenizer's chat template, used so that what was said before stays as it is."""

    tokenizer: Any

    def __post_init__(self) -> None:
        if not getattr(self.tokenizer, "chat_template", None):
            raise ConfigError(
                "start: its tokenizer has no chat template, so a prompt cannot be put to it; put one into its "
                "tokenizer_config.json"
            )

    def opening(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]:
        """A conversation from its beginning, up to where the policy speaks."""
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
                "start: its chat template rewrites earlier turns, so several turns cannot be trained as they were "
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

    def tell(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> None:
        """Take in the whole conversation so far, of which what was said here is the beginning."""
        new = list(messages[len(self.messages) :])
        if not self.messages:
            self.strand.tell(self.template.opening(new, tools))
        else:
            self.strand.tell(self.template.going_on(self._last, new))
        self.messages.extend(new)

    def draw(self, tokens: Sequence[int], logprobs: Sequence[float], text: str) -> Message:
        """Take in the policy's answer; returns it as a message."""
        self.strand.draw(tokens, logprobs)
        self._last = list(tokens)
        answer: Message = {"role": "assistant", "content": text}
        self.messages.append(answer)
        return answer


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two messages say the same; what is empty counts as not there."""
    return _plain(one) == _plain(other)


def _plain(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):  # OpenAI's parts
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    kept = {key: value for key, value in message.items() if value and key in ("role", "name", "tool_call_id")}
    return json.dumps({**kept, "content": content or ""}, sort_keys=True)
