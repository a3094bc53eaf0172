"""What reinforcement learning needs of siblings: model judges and policies, handed to `training` as plain callables.

Knows checkpoints by name, and policies; a reward that uses them knows neither.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import ConfigError

if TYPE_CHECKING:
    from safety.resolved import ResolvedPolicy
    from training.rewards.base import Sample, Score, Services
    from workbench.store import Project

WITHHELD = ("rewrite", "hold", "block")
"""Actions after which a text does not leave as it is."""


def build_services(project: "Project | None", folder: Path) -> "Services":
    """For the rewards of a recipe in `folder`. Without a project there are no model judges by alias."""
    from training.rewards.base import Services

    judges = _Models(project)
    policies = _Policies(project, folder)
    return Services(folder=folder, ask=judges.ask, policy=policies.score, check_policy=policies.load)


class _Models:
    """Model judges, each loaded when it is first asked, and kept."""

    def __init__(self, project: "Project | None") -> None:
        self.project = project
        self._engines: dict[str, Any] = {}

    def ask(self, model: str, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[str]:
        """Greedy answers of a checkpoint, or of an endpoint that the project allows."""
        from workbench.engines.base import GenerateRequest

        engine = self._engine(model)
        requests = [
            GenerateRequest(prompt=self._render(engine, one), max_new_tokens=64, tile="judge") for one in conversations
        ]
        found = {index: answer.text for tile in engine.generate(requests) for index, answer in tile}
        return [found[index] for index in range(len(requests))]

    def _engine(self, model: str) -> Any:
        if model not in self._engines:
            from workbench.engines import load
            from workbench.references import resolve_checkpoint

            if self.project is None:
                raise ConfigError(f"judge.model: {model}: needs a project; run it inside one (workbench init)")
            checkpoint = resolve_checkpoint(model, self.project)
            endpoint = checkpoint.kind == "endpoint"
            more: dict[str, Any] = {"allowed": self.project.config.allowed_endpoints} if endpoint else {}
            self._engines[model] = load(checkpoint, **more)
        return self._engines[model]

    @staticmethod
    def _render(engine: Any, messages: Sequence[Mapping[str, str]]) -> str:
        tokenizer: Any = getattr(engine, "tokenizer", None)
        if getattr(tokenizer, "chat_template", None):
            turns = [dict(one) for one in messages]
            return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return "\n\n".join(one["content"] for one in messages)


class _Policies:
    """Policies by name, with the refusal detector and those of their judges that need no model."""

    def __init__(self, project: "Project | None", folder: Path) -> None:
        self.folders = [folder, *([project.root / "policies"] if project is not None else [])]
        self._known: dict[str, ResolvedPolicy] = {}
        self._judges: dict[str, Any] = {}

    def load(self, reference: str) -> "ResolvedPolicy":
        """Raises ConfigError: no such policy, or one that is not valid."""
        from safety.policy import load_policy

        if reference not in self._known:
            beside = self.folders[0] / reference
            self._known[reference] = load_policy(beside if beside.is_file() else reference, folders=self.folders)
        return self._known[reference]

    def score(self, reference: str, options: Mapping[str, Any], samples: "Sequence[Sample]") -> "list[Score]":
        """0 for an answer that the policy wants, less for a violation or an over-refusal."""
        from safety.judges.base import Passage

        policy = self.load(reference)
        passages = [Passage(text=one.answer, prompt=one.prompt) for one in samples]
        refusals = self._refusal().judge(passages, [_refuses()])
        content = self._content(policy, options.get("judges", ()), passages)
        return [
            self._one(policy, options, sample, refusal[0], acts)
            for sample, refusal, acts in zip(samples, refusals, content, strict=True)
        ]

    def _one(
        self, policy: "ResolvedPolicy", options: Mapping[str, Any], sample: "Sample", refusal: Any, acts: bool | None
    ) -> "Score":
        from training.rewards.base import Failed

        column = options["category_column"]
        category = str(sample.row.get(column) or "")
        if category and category not in policy.categories:
            return Failed(f"column {column!r} of its row: {category!r} is no category of policy {policy.name}")
        if refusal.value in ("unscorable", "uncertain"):
            return Failed(f"the refusal detector could not tell: {refusal.evidence or refusal.value}")
        if acts is None:
            return Failed("a judge of the policy could not score the answer")
        refuses = refusal.value == "violates"
        withheld = bool(category) and _is_withheld(policy, category)
        if acts or (withheld and not refuses):
            return -float(options["violation"])
        return -float(options["over_refusal"]) if refuses and not withheld else 0.0

    def _content(self, policy: "ResolvedPolicy", names: Sequence[str], passages: Sequence[Any]) -> list[bool | None]:
        """Of each answer, whether the policy's own judges would not let it leave; None: one could not tell."""
        from safety.decide import decide

        if not names:
            return [False] * len(passages)
        categories = [policy.categories[name] for name in policy.judged("model_output", {})]
        columns = [self._judge(policy, name).judge(passages, categories) for name in names]
        found: list[bool | None] = []
        for at in range(len(passages)):
            judged = [one for column in columns for one in column[at]]
            decision = decide(policy, "model_output", judged, categories=[])
            unknown = all(one.value == "unscorable" for one in judged)
            found.append(None if unknown and judged else decision.action in WITHHELD)
        return found

    def _judge(self, policy: "ResolvedPolicy", name: str) -> Any:
        from safety.judges.base import build_judge
        from workbench.errors import did_you_mean

        if name not in self._judges:
            if name not in policy.judges:
                known = did_you_mean(name, policy.judges)
                raise ConfigError(f"policy.judges: policy {policy.name} has no judge {name!r}; {known}")
            entry = policy.judges[name]
            if entry["kind"] == "model":
                raise ConfigError(f"policy.judges: {name}: a model judges; use the reward of kind judge for it")
            self._judges[name] = build_judge(name, str(entry["kind"]), dict(entry.get("options") or {}))
        return self._judges[name]

    def _refusal(self) -> Any:
        if "" not in self._judges:
            from safety.judges.refusal import RefusalJudge

            self._judges[""] = RefusalJudge(name="refusal")
        return self._judges[""]


def _refuses() -> Any:
    from safety.judges.base import PlainCategory

    return PlainCategory(id="refuses", title="Refusal", definition="The answer refuses, in full or in part.")


def _is_withheld(policy: "ResolvedPolicy", category: str) -> bool:
    """Whether the policy keeps back an answer that violates the category."""
    from safety.decide import decide
    from workbench.records import Judgement

    found = Judgement(category=category, value="violates", judge="asked", probability=1.0)
    return decide(policy, "model_output", [found], categories=[]).action in WITHHELD
