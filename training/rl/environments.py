"""Environments in this process: what answers the policy, and tools it may call. Knows text; knows no model.

A tool is a typed Python function; what the policy is told of it comes from its signature and docstring. Calls are
written as `<tool_call>{"name": ..., "arguments": {...}}</tool_call>` and answered by `<tool_response>`, as text of
ordinary messages, so that any chat template will do.
"""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import regex

from training.rl.conversation import with_tools
from workbench.registry import Registry

CALL = regex.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", regex.DOTALL)
MOST_TEXT = 4000
"""Characters of a tool's answer that are told."""

Message = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What an environment answers."""

    messages: Sequence[Message] = ()
    """What the policy is told next."""
    done: bool = False
    rewards: Mapping[str, float] = field(default_factory=dict)
    """Of this step, by name; the same name in several steps adds up."""


class Environment(Protocol):
    """One episode's world. One is made for each episode."""

    def reset(self, row: Mapping[str, Any], messages: list[Message]) -> list[Message]:
        """Begin with a row of the prompts; returns the conversation that the policy is to answer."""
        ...

    def step(self, answer: str) -> Turn:
        """Take in what the policy wrote."""
        ...

    def close(self) -> Mapping[str, float]:
        """The episode is over, or was cut off; what it is worth besides."""
        ...


environments: Registry[Callable[..., Environment]] = Registry("environment", group="workbench.environments")
environments.register_lazy("counting-house", "training.rl.counting_house:CountingHouse")


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A tool that the policy asked for."""

    name: str
    arguments: Mapping[str, Any]


def read_calls(answer: str) -> list[Call]:
    """Calls in an answer, in order; what is no JSON object with a name is none."""
    found: list[Call] = []
    for text in CALL.findall(answer):
        try:
            call = json.loads(text)
        except (ValueError, RecursionError):
            continue
        arguments = call.get("arguments", {})
        if isinstance(call.get("name"), str) and isinstance(arguments, dict):
            found.append(Call(name=call["name"], arguments=arguments))
    return found


def describe_tool(function: Callable[..., Any]) -> dict[str, Any]:
    """A function as chat templates and OpenAI describe tools: from its types and its docstring's first line."""
    kinds = {int: "integer", float: "number", str: "string", bool: "boolean", list: "array", dict: "object"}
    parameters = inspect.signature(function, eval_str=True).parameters
    properties = {name: {"type": kinds.get(one.annotation, "string")} for name, one in parameters.items()}
    required = [name for name, one in parameters.items() if one.default is inspect.Parameter.empty]
    about = (inspect.getdoc(function) or "").strip().splitlines()
    return {
        "type": "function",
        "function": {
            "name": function.__name__,  # pyright: ignore[reportFunctionMemberAccess]
            "description": about[0] if about else "",
            "parameters": {"type": "object", "properties": properties, "required": required},
        },
    }


class ToolEnvironment:
    """An environment of tools: the policy calls them until it answers without a call.

    Subclass it: `tools` are the functions, `begin` sets the episode up, `grade` scores the last answer.
    """

    tools: Sequence[Callable[..., Any]] = ()
    """Typed functions or methods."""

    def begin(self, row: Mapping[str, Any]) -> None:
        """Set the episode up."""

    def grade(self, answer: str) -> Mapping[str, float]:
        """What the last answer, and what was done on the way, is worth."""
        raise NotImplementedError

    def reset(self, row: Mapping[str, Any], messages: list[Message]) -> list[Message]:
        """As in Environment."""
        self.begin(row)
        self._graded = False
        return with_tools(messages, [describe_tool(tool) for tool in self.tools])

    def step(self, answer: str) -> Turn:
        """As in Environment."""
        calls = read_calls(answer)
        if not calls:
            self._graded = True
            return Turn(done=True, rewards=self.grade(answer))
        told = [f"<tool_response>{self._run(call)}</tool_response>" for call in calls]
        return Turn(messages=[{"role": "user", "content": "\n".join(told)}])

    def close(self) -> Mapping[str, float]:
        """As in Environment: whoever was cut off before an answer has given none."""
        return {} if self._graded else self.grade("")

    def _run(self, call: Call) -> str:
        known = {tool.__name__: tool for tool in self.tools}  # pyright: ignore[reportFunctionMemberAccess]
        if call.name not in known:
            return f"no tool {call.name!r}; there are: {', '.join(known)}"
        try:
            return str(known[call.name](**call.arguments))[:MOST_TEXT]
        except Exception as error:  # the policy's fault, which it may learn from
            return f"{type(error).__name__}: {error}"[:MOST_TEXT]
