"""Which stage fits some data, from a checkpoint. Knows what a checkpoint's name means; `training.advise` measures."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.errors import CheckpointError
from workbench.references import open_project
from workbench.runs import find_start

if TYPE_CHECKING:
    from training.advise import Advised
    from training.recipe import Method
    from workbench.store import Project


def advise(
    data: str | Path, start: str, *, project: "Project | str | Path", column: str = "text", **options: Any
) -> "Advised":
    """Measure what to do with a file of rows; `options` are those of `training.advise.advise`.

    Raises UserError for rows or a start that cannot be used.
    """
    from transformers import AutoTokenizer

    from training.advise import advise as measure
    from training.recipe import Source
    from training.sources import RowDocuments, open_source
    from training.start import load_weights
    from workbench.engines.convert import quiet_transformers
    from workbench.engines.loading import model_folder

    checkpoint = find_start(start, open_project(project))
    if checkpoint.kind == "endpoint":
        raise CheckpointError(
            f"--start: {checkpoint.name} is an endpoint, whose weights cannot be trained; name a model"
        )
    folder, path = Path(model_folder(checkpoint)), Path(data)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    source = Source(name=path.stem, data=str(path.name), share=1.0, column=column)
    methods: tuple[Method, ...] = ("sft", "pretrain")
    sources: dict[Method, RowDocuments] = {
        method: open_source(source, tokenizer=tokenizer, method=method, folder=path.parent) for method in methods
    }
    with quiet_transformers():
        return measure(sources, load_weights(folder), **options)
