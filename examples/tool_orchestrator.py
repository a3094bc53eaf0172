"""An orchestrator in a process of its own: the policy opens boxes with tools, adds up, answers; four turns and more.

    python examples/tool_orchestrator.py runs/my-tools          # while it trains
    python examples/tool_orchestrator.py episodes/boxes         # while an environment's file is evaluated

Nothing here knows the workbench but the client, which is one file. The boxes are the row's; your own orchestrator has
your simulator, your repository or your browser in their place.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from orchestrator_client import Episode, Run

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "open_box",
            "description": "Say how many coins lie in a box.",
            "parameters": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        },
    },
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Add two numbers.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "required": ["a", "b"],
            },
        },
    },
]
MOST_TURNS = 8


def run_tool(name: str, arguments: dict, boxes: dict[str, int]) -> str:
    """What a tool answers; a wrong call is told to the policy, which may learn from it."""
    try:
        if name == "open_box":
            box = arguments["name"]
            return str(boxes[box]) if box in boxes else f"there is no box {box}; there are: {', '.join(sorted(boxes))}"
        if name == "add":
            return str(int(arguments["a"]) + int(arguments["b"]))
        return f"no tool {name!r}; there are: open_box, add"
    except (KeyError, TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def act(episode: Episode) -> None:
    """One episode: answer calls until the policy answers without one."""
    boxes = {name: int(count) for name, count in episode.row["boxes"].items()}
    messages, opened = list(episode.messages), set()
    for _ in range(MOST_TURNS):
        answer = episode.chat(messages, tools=TOOLS)
        messages.append(answer)
        calls = answer.get("tool_calls") or []
        if not calls:
            break
        for call in calls:
            arguments = json.loads(call["function"]["arguments"])
            if call["function"]["name"] == "open_box" and arguments.get("name") in boxes.keys() - opened:
                opened.add(arguments["name"])
                episode.reward(0.1, "opened")  # a step's reward, once for each box
            content = run_tool(call["function"]["name"], arguments, boxes)
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": content})
    right = str(episode.row["answer"]) in (messages[-1].get("content") or "").split()
    episode.finish(rewards={"right": float(right)}, metrics={"boxes": len(opened)})


if __name__ == "__main__":
    done = Run.drive_folder(sys.argv[1], act, concurrency=8)
    sys.stderr.write(f"{done} episodes\n")
