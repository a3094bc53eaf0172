"""From a recipe to where its episodes come from: rewards, and what drives the policy. Knows all parts of the folder."""

from collections.abc import Callable, Mapping
from pathlib import Path

from training.rewards.base import Scorer, Services
from training.rl.collect import Collector, Driver
from training.rl.drivers import EnvironmentDriver, PlainDriver
from training.rl.environments import environments
from training.rl.options import PROMPTS, Reinforce
from training.rl.sampling import Policy
from training.rl.stream import Places
from workbench.registry import load_include_path

MOST_ROWS = 64
"""Answers that grow at the same time."""


def check_parts(options: Reinforce, services: Services) -> None:
    """Build the rewards and the environment once, before a run, and let go of them.

    Raises UserError: one cannot be built.
    """
    load_own(options, services.folder)
    if options.environment:
        environments.get(options.environment)(**options.environment_options)
    Scorer.build(options.rewards, services).close()


def load_own(options: Reinforce, folder: Path) -> None:
    """Run the recipe's Python files, which register rewards and environments of its own."""
    load_include_path([folder / path for path in options.include])


def build_collector(
    places: Places, services: Services, *, tell: Callable[[Mapping[str, float]], None] = lambda _: None
) -> Collector:
    """Of a run; the model is taken up when the first episode is sampled."""
    options, run = places.options, places.run
    load_own(options, services.folder)

    def driver() -> Driver:
        policy = Policy(run.model, run.tokenizer, temperature=options.temperature, max_rows=MOST_ROWS)
        return build_driver(options, policy, run=run.recipe.recipe, folder=run.folder)

    return Collector(
        options=options,
        prompts=places.sources[PROMPTS],
        order=places.order,
        seed=run.recipe.seed,
        folder=run.folder,
        driver=driver,
        scorer=Scorer.build(options.rewards, services),
        tell=tell,
    )


def build_driver(options: Reinforce, policy: Policy, *, run: str, folder: Path) -> Driver:
    """What lets a policy act; `folder` is where an orchestrator finds the way to it."""
    if options.orchestrator is not None:
        from training.rl.gateway import OrchestratedDriver

        return OrchestratedDriver(policy, options, run=run, folder=folder)
    if options.environment:
        build = environments.get(options.environment)
        return EnvironmentDriver(policy, options, lambda: build(**options.environment_options))
    return PlainDriver(policy, options)
