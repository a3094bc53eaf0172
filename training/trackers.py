"""Experiment trackers by name: transformers' own callbacks, asked for before training begins. Knows names, no run."""

from collections.abc import Sequence
from importlib.util import find_spec

from workbench.errors import ConfigError, did_you_mean

PACKAGES = {
    "mlflow": "mlflow",
    "wandb": "wandb",
    "trackio": "trackio",
    "tensorboard": "tensorboard",
    "comet_ml": "comet-ml",
    "clearml": "clearml",
    "swanlab": "swanlab",
    "dvclive": "dvclive",
}
"""Name in a recipe (transformers' `report_to`) -> what installs it."""
_MODULES = {"tensorboard": ("tensorboard", "tensorboardX")}


def check_trackers(names: Sequence[str]) -> None:
    """Refuse a tracker that cannot be there when the run begins.

    Raises:
        ConfigError: unknown, or not installed, with the command that cures it.
    """
    for name in names:
        if name not in PACKAGES:
            raise ConfigError(f"report_to: {name!r}: no tracker of that name; {did_you_mean(name, PACKAGES)}")
        if not any(find_spec(module) for module in _MODULES.get(name, (name,))):
            raise ConfigError(
                f"report_to: {name} is not installed; pip install {PACKAGES[name]}, or leave it out: the curves are in "
                "log.jsonl anyway"
            )
