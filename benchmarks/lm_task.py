"""The lm-eval Task that our manifest's entries become. Imports lm_eval, so it is imported only when tasks are built."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import lm_eval.utils
from lm_eval.api.task import ConfigurableTask

from benchmarks.rows import Row

# lm-eval compiles a task's Jinja template for each document (1.3 ms); the compiled template depends on its text alone.
_compiled = functools.lru_cache(maxsize=4096)(lm_eval.utils.env.from_string)


def apply_template(template: str, doc: dict[str, Any]) -> str:
    """Do what `lm_eval.utils.apply_template` does, compiling each template once."""
    return _compiled(template).render(**doc)


lm_eval.utils.apply_template = apply_template


class Rows(list[Row]):
    """Documents in memory: what lm-eval needs of a `datasets.Dataset`, without the trip through Arrow."""

    @property
    def features(self) -> dict[str, None]:
        """Column names, as keys."""
        return dict.fromkeys(column for row in self for column in row)


class WorkbenchTask(ConfigurableTask):
    """A task whose rows are already here. Its card lies in `config.metadata["workbench"]`."""

    def __init__(self, *, docs: Sequence[Row], shots: Sequence[Row], config: Mapping[str, Any]) -> None:
        self._splits = {"test": Rows(docs), "dev": Rows(shots)}
        shown = {"fewshot_split": "dev", "fewshot_config": {"sampler": "first_n", "split": "dev"}} if shots else {}
        super().__init__(config={"test_split": "test", "num_fewshot": 0, **shown, **config})
        self.set_fewshot_seed(1234)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Take the rows given to the constructor."""
        self.dataset = self._splits
