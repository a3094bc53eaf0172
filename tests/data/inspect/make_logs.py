"""Make the logs in this folder: `pip install inspect_ai && python make_logs.py`. Not run by the tests.

The model is `mockllm/model`, which inspect_ai brings and which says what it is told; the questions are our own.
"""

from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import choice, f1, match
from inspect_ai.solver import generate, multiple_choice

FACTS = {
    "How many legs has a spider?": "8",
    "What is frozen water called?": "ice",
    "Which planet is called red?": "Mars",
    "What do bees make?": "honey",
}
ORGANS = {
    "Which organ pumps blood?": (["the heart", "the liver"], "A"),
    "Which gas do plants take in?": (["oxygen", "carbon dioxide"], "B"),
    "Which animal says meow?": (["a dog", "a cat"], "B"),
}


def told(answers):
    """A model that gives the answer whose question stands in the prompt; each time the next one of a list."""
    left = {question: list(own) for question, own in answers.items()}

    def say(messages, tools, tool_choice, config):
        own = next(own for question, own in left.items() if question in messages[-1].text)
        output = ModelOutput.from_content("mockllm/model", own.pop(0))
        output.usage = ModelUsage(input_tokens=9, output_tokens=3, total_tokens=12)
        return output

    return get_model("mockllm/model", custom_outputs=say, memoize=False)


def facts(name, answers):
    samples = [
        Sample(id=place, input=question, target=target, metadata={"topic": f"topic {place % 2}"})
        for place, (question, target) in enumerate(FACTS.items())
    ]
    task = Task(
        name="facts",
        dataset=MemoryDataset(samples),
        solver=[generate()],
        scorer=[match(location="any"), f1()],
        metadata={"log": name},
    )
    model = told({question: [answer] for question, answer in zip(FACTS, answers, strict=True)})
    eval(task, model=model, log_dir=name, display="none")


def organs(name, answers):
    samples = [Sample(id=q, input=q, choices=choices, target=target) for q, (choices, target) in ORGANS.items()]
    task = Task(name="organs", dataset=MemoryDataset(samples), solver=[multiple_choice()], scorer=choice(), epochs=2)
    eval(task, model=told(dict(zip(ORGANS, answers, strict=True))), log_dir=name, display="none")


if __name__ == "__main__":
    facts("facts_before", ["A spider has 8 legs.", "Snow", "Mars", "wax"])
    facts("facts_after", ["six", "ice", "Mars", "honey"])
    organs("organs_twice", [["ANSWER: A", "ANSWER: A"], ["ANSWER: A", "ANSWER: B"], ["ANSWER: B", "ANSWER: B"]])
