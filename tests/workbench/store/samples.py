"""Records written for the store's tests."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from workbench.records import Checkpoint, Estimate, ItemScore, Report, TaskResult
from workbench.store import report_id


def make_checkpoint(name: str = "shop-sft", digit: str = "a", **fields: Any) -> Checkpoint:
    defaults: dict[str, Any] = {
        "source": f"/models/{name}",
        "kind": "folder",
        "fingerprint": digit * 64,
        "tokenizer": "e" * 64,
    }
    return Checkpoint(name=name, **(defaults | fields))


def make_items(count: int = 5, *, shift: float = 0.0) -> list[ItemScore]:
    return [
        ItemScore(
            task="shop_mc",
            item=f"{number:064x}",
            doc_id=number,
            group=f"passage-{number // 2}",
            metrics={"acc": float(number % 2), "acc_norm": 1 / 3},
            logprobs=(-0.1 - number / 7 - shift, -1 / 3),
            greedy=(True, False),
            answer="an insulated bag",
            target="an insulated bag",
            prompt="Question: Which bag keeps frozen food cold?\nAnswer:",
            extra={"subject": "bags", "shares": [0.1, None]},
        )
        for number in range(count)
    ]


def make_report(
    checkpoint: Checkpoint | None = None, items: Sequence[ItemScore] | None = None, **fields: Any
) -> tuple[Report, list[ItemScore]]:
    """A report with the id of its content, and its items."""
    rows = list(make_items() if items is None else items)
    estimate = Estimate(metric="acc", value=0.4, low=0.1, high=0.77, n=len(rows), clusters=3, method="wilson")
    result = TaskResult(
        task="shop_mc",
        role="domain",
        margin=0.02,
        required=True,
        metric="acc",
        estimates=(estimate,),
        n=len(rows),
        num_fewshot=5,
        chance=0.25,
    )
    defaults: dict[str, Any] = {
        "id": "",
        "checkpoint": checkpoint or make_checkpoint(),
        "suites": ("shop",),
        "results": (result,),
        "settings": {"engine": "transformers", "dtype": "float32", "seed": 0, "limit": None},
        "created_at": "2026-01-05T08:00:00.000000+00:00",
        "environment": {"torch": "2.13.0"},
        "timing": {"seconds": 1.5},
    }
    report = Report(**(defaults | fields))
    return replace(report, id=report_id(report, rows)), rows
