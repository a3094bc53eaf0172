"""Give lm-eval's checkers the data they would download, so that they work, and judge alike, without a network."""

import tempfile
import zipfile
from pathlib import Path

from workbench.config import cache_folder

PUNKT = Path(__file__).parent / "nltk_data" / "punkt_tab.zip"


def ensure_punkt() -> None:
    """Let NLTK find its English sentence splitter: an installed one, else the model that ships with the workbench."""
    import nltk

    try:
        nltk.data.find("tokenizers/punkt_tab")
        return
    except LookupError:
        folder = _unpack()
    nltk.data.path.append(str(folder))


def _unpack() -> Path:
    """Unpack the model into the user's cache: NLTK refuses data in folders that others may write to."""
    folder = cache_folder() / "nltk_data"
    tokenizers = folder / "tokenizers"
    if (tokenizers / "punkt_tab" / "english" / "ortho_context.tab").is_file():
        return folder
    try:
        tokenizers.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:  # a read-only home: the model then lives as long as this machine is up
        folder = Path(tempfile.mkdtemp(prefix="workbench-nltk-"))
        tokenizers = folder / "tokenizers"
        tokenizers.mkdir()
    with tempfile.TemporaryDirectory(dir=tokenizers) as part:
        with zipfile.ZipFile(PUNKT) as archive:
            archive.extractall(part)
        try:
            # One rename, so that a second process never sees half a model.
            (Path(part) / "punkt_tab").rename(tokenizers / "punkt_tab")
        except OSError:
            if not (tokenizers / "punkt_tab").is_dir():
                raise
    return folder
