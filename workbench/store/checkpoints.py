"""From what a person typed to a Checkpoint: hub id, folder, GGUF file or endpoint. Knows files; loads no weights.

Only safetensors and GGUF are read: a pickle can run code when it is opened.
"""

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Iterable
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import urlsplit

from workbench.config import cache_folder
from workbench.errors import CheckpointError, did_you_mean
from workbench.records import Checkpoint
from workbench.store.digests import digest_files, hash_files
from workbench.store.files import write_file
from workbench.store.storage import Storage, is_storage_url, move_into_cache
from workbench.store.weights import check_safetensors, read_gguf_header

IMPORTED = "imported:"
"""What the source of a checkpoint begins with of which only another tool's log is known."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "*.tiktoken", "tekken.json",
    "chat_template.jinja", "chat_template.json", "additional_chat_templates/*.jinja",
)  # fmt: skip
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model",
                 "sentencepiece.bpe.model", "*.tiktoken", "tekken.json")  # fmt: skip
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_CONFIG_FILES = ("config.json", "generation_config.json", "*.safetensors.index.json")
_GENERIC_NAME = re.compile(r"checkpoint-\d+|final|last|best|model|snapshot|main")


def resolve(source: str | Path, *, revision: str | None = None, name: str | None = None) -> Checkpoint:
    """What `source` names, with the digests of its weights and tokenizer.

    `source` is a folder with safetensors, here or in object storage (`s3://bucket/folder`), a GGUF file, a hub id
    (`owner/name`, `owner/name@revision`), or an endpoint's URL with `#model`. A folder or file of that name goes before
    a hub id. `name` is what it shall be called.

    Raises:
        CheckpointError: nothing of that name, no model, or a damaged one.
    """
    text = str(source)
    if urlsplit(text).scheme in ("http", "https"):
        return _endpoint(text, name)
    if is_storage_url(text):
        return _folder(_fetched(text), kind="folder", source=text, name=name or _name_of(Path(text)))
    if text.startswith(IMPORTED):
        raise CheckpointError(
            f"{text.removeprefix(IMPORTED)}: only a run of it was imported, its weights are not here; name their folder"
        )
    path = Path(text).expanduser()
    try:
        if path.is_dir():
            return _folder(
                path.resolve(), kind="folder", source=str(path.resolve()), name=name or _name_of(path.resolve())
            )
        if path.is_file():
            return _file(path.resolve(), name)
        identifier, _, at = text.partition("@")
        if not _HUB_ID.fullmatch(identifier) or path.suffix == ".gguf" or text.startswith((".", "~")):
            raise CheckpointError(f"{text}: no such file or folder; {_names_beside(path)}")
        revision = revision or at or None
        folder = hub_folder(identifier, revision=revision)
        full = f"{identifier}@{revision}" if revision else identifier
        return _folder(folder, kind="hub", source=full, name=name or full)
    except OSError as error:
        raise CheckpointError(f"{text}: cannot be read ({error.strerror or error})") from error


def local_path(checkpoint: Checkpoint) -> Path:
    """The folder or GGUF file on this disk that holds the weights.

    Raises:
        CheckpointError: an endpoint, or files that are gone.
    """
    if checkpoint.kind == "endpoint":
        raise CheckpointError(f"{checkpoint.name}: an endpoint has no weights here; choose the engine openai")
    if checkpoint.kind == "hub":
        identifier, _, revision = checkpoint.source.partition("@")
        return hub_folder(identifier, revision=revision or None)
    if is_storage_url(checkpoint.source):
        return _cached(checkpoint)
    path = Path(checkpoint.source)
    if not path.exists():
        raise CheckpointError(f"{checkpoint.name}: {path} is gone; {_names_beside(path)}")
    return path


def measure(path: Path) -> tuple[str, str, int]:
    """Fingerprint, tokenizer digest and bytes of a checkpoint's folder or GGUF file, of what lies on the disk now.

    `resolve` remembers digests by size and time of change; this one reads every byte.

    Raises:
        CheckpointError: no model, or a damaged one.
    """
    if path.is_file():
        tokenizer = read_gguf_header(path).tokenizer
        return hash_files([path], "bytes"), tokenizer, path.stat().st_size
    weights, words = weight_files(path), tokenizer_files(path)
    for file in weights:
        check_safetensors(file)
    size = sum(file.stat().st_size for file in (*weights, *words))
    return hash_files(weights, "bytes"), hash_files(words, "named"), size


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model, in name order.

    Raises:
        CheckpointError: none, or a shard of the index is missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = _shards(index)
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing or not shards:
            raise CheckpointError(
                f"{folder}: {len(missing)} of {len(shards)} weight files are missing ({', '.join(missing[:3])}); "
                "fetch or save the model again"
            )
        return [folder / shard for shard in shards]
    one = folder / "model.safetensors"
    files = [one] if one.is_file() else sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{folder}: its weights are pickles ({', '.join(pickles[:3])}), which can run code when opened; load it "
            "once with transformers where you trust it, and save_pretrained() writes safetensors"
        )
    raise CheckpointError(f"{folder}: no weights (*.safetensors); {_inside(folder)}")


def model_files(folder: Path) -> list[str]:
    """Names below the folder of all that makes up the model: weights, configuration and tokenizer, config.json last."""
    found = {*weight_files(folder), *tokenizer_files(folder), *_matching(folder, _CONFIG_FILES)}
    names = sorted(str(file.relative_to(folder)) for file in found)
    return [name for name in names if name != "config.json"] + ["config.json"]


def storage_name(checkpoint: Checkpoint) -> str:
    """What its folder is called where folders are named by content."""
    return f"{checkpoint.fingerprint}-{checkpoint.tokenizer[:16]}"


def _fetched(url: str) -> Path:
    """A folder of the cache, named by its content, that holds what lies at a URL; fetched unless it is there.

    Only safetensors, configuration and tokenizer are fetched. Raises CheckpointError: no model lies there.
    """
    storage = Storage(url)
    there = storage.files()
    wanted = {name: facts for name, facts in there.items() if _is_model_file(name)}
    if not any(name.endswith(".safetensors") for name in wanted):
        pickles = sorted(name for name in there if PurePath(name).suffix in (".bin", ".pt", ".pth", ".ckpt"))
        why = f"its weights are pickles ({', '.join(pickles[:3])})" if pickles else f"{len(there)} files, no model"
        raise CheckpointError(f"{url}: {why}; name a folder with config.json, tokenizer and *.safetensors")
    cache = cache_folder() / "checkpoints"
    seen = hashlib.sha256(json.dumps([url, sorted(wanted.items())]).encode()).hexdigest()
    note = cache / f"{seen}.json"
    if note.is_file() and (known := cache / json.loads(note.read_text())["folder"]).is_dir():
        return known
    cache.mkdir(parents=True, exist_ok=True)
    hidden = cache / f".tmp-{uuid.uuid4().hex}"
    try:
        storage.get(sorted(wanted), hidden)
        found = _folder(hidden, kind="folder", source=url, name=url)
        move_into_cache(hidden, cache / storage_name(found))
        write_file(note, json.dumps({"folder": storage_name(found), "url": url}))
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return cache / storage_name(found)


def _cached(checkpoint: Checkpoint) -> Path:
    """Where a checkpoint of a URL lies in the cache. Raises CheckpointError: other weights lie at the URL by now."""
    folder = cache_folder() / "checkpoints" / storage_name(checkpoint)
    if not folder.is_dir():
        _fetched(checkpoint.source)
    if not folder.is_dir():
        raise CheckpointError(
            f"{checkpoint.name}: other weights than {checkpoint.fingerprint[:12]} lie at {checkpoint.source} by now; "
            "name the URL again to use those"
        )
    return folder


def _is_model_file(name: str) -> bool:
    path = PurePath(name)
    plain = path.parent == PurePath()
    return (plain and path.match("*.safetensors")) or any(
        path.match(pattern) and (plain or "/" in pattern) for pattern in (*_CONFIG_FILES, *_TOKENIZER_FILES)
    )


def _shards(index: Path) -> list[str]:
    """Names of the weight files in an index: of files beside it, wherever the index would like to lead."""
    named: Any = _read_json(index).get("weight_map", {})
    shards: set[Any] = set(named.values()) if isinstance(named, dict) else {None}
    for shard in shards:
        if not isinstance(shard, str) or not shard.endswith(".safetensors") or Path(shard).name != shard:
            raise CheckpointError(f"{index}: {shard!r} is no name of a weight file beside it; fetch the model again")
    return sorted(shards)


def tokenizer_files(folder: Path) -> list[Path]:
    """The files that make up the tokenizer in a model's folder: what its digest is of."""
    return _matching(folder, _TOKENIZER_FILES)


def hub_folder(identifier: str, *, revision: str | None = None) -> Path:
    """The snapshot folder of a hub model, downloaded unless it is there; HF_HUB_OFFLINE is honoured.

    Raises:
        CheckpointError: unknown, gated, offline and not in the cache.
    """
    import httpx
    from huggingface_hub import errors, snapshot_download

    patterns = ["*.safetensors", *_CONFIG_FILES, *_TOKENIZER_FILES]
    try:
        found = snapshot_download(
            identifier, revision=revision, allow_patterns=patterns, ignore_patterns=["*/*.safetensors", "*/*.json"]
        )
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{identifier}: this model asks for its licence to be accepted; do so on its page, then run hf auth login"
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{identifier}: has no revision {revision!r}; leave it out for the newest") from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"{identifier}: no such model on the hub, and no such folder; {_near_hub(identifier)}"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, httpx.TransportError):
        raise CheckpointError(
            f"{identifier}: no folder of that name, not in the hub cache, and the hub cannot be reached; "
            f"{_near_hub(identifier)}"
        ) from None
    except (errors.HFValidationError, errors.HfHubHTTPError) as error:
        raise CheckpointError(f"{identifier}: {' '.join(str(error).split())[:300]}") from error
    return Path(found)


def _folder(folder: Path, *, kind: str, source: str, name: str) -> Checkpoint:
    if not (folder / "config.json").is_file():
        raise CheckpointError(_without_config(folder))
    _read_json(folder / "config.json")
    weights = weight_files(folder)
    if not _matching(folder, _VOCABULARIES):
        raise CheckpointError(f"{folder}: no tokenizer (tokenizer.json); save the tokenizer into the same folder")

    def check() -> None:
        for file in weights:
            check_safetensors(file)

    return Checkpoint(
        name=name,
        source=source,
        kind="hub" if kind == "hub" else "folder",
        fingerprint=digest_files(weights, framing="bytes", check=check),
        tokenizer=digest_files(tokenizer_files(folder), framing="named"),
    )


def _file(path: Path, name: str | None) -> Checkpoint:
    if path.suffix == ".safetensors":
        raise CheckpointError(f"{path}: name its folder, which also holds the configuration and the tokenizer")
    if path.suffix != ".gguf":
        raise CheckpointError(f"{path}: this file is no model; name a folder with safetensors, or a .gguf file")
    tokenizer = digest_files([path], framing="bytes", compute=lambda: read_gguf_header(path).tokenizer)
    return Checkpoint(
        name=name or path.stem,
        source=str(path),
        kind="gguf",
        fingerprint=digest_files([path], framing="bytes"),
        tokenizer=tokenizer,
    )


def _endpoint(url: str, name: str | None) -> Checkpoint:
    parts = urlsplit(url)
    if not parts.fragment or not parts.netloc:
        raise CheckpointError(
            f"{url}: an endpoint is written with its model, such as http://localhost:8000/v1#my-model"
        )
    # The weights behind an address cannot be seen: the address and the model's name stand for them.
    digest = hashlib.sha256(f"endpoint\n{url}".encode()).hexdigest()
    return Checkpoint(name=name or parts.fragment, source=url, kind="endpoint", fingerprint=digest, tokenizer="")


def _name_of(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}" if _GENERIC_NAME.fullmatch(folder.name) else folder.name


def _matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: no valid JSON ({error}); fetch or save the model again") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{file}: a JSON object is expected, got {type(data).__name__}")
    return data


def _without_config(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return f"{folder}: an adapter, no whole model; merge it into its base first (peft: merge_and_unload)"
    return f"{folder}: no model (it has no config.json); {_inside(folder)}"


def _inside(folder: Path) -> str:
    """What in a folder that is no model may be meant."""
    models = sorted(file.parent for file in folder.glob("*/config.json")) + sorted(folder.glob("*.gguf"))
    if models:
        return "did you mean " + " or ".join(f'"{path}"' for path in models[-3:]) + "?"
    return "name a folder with config.json, tokenizer and *.safetensors"


def _names_beside(path: Path) -> str:
    folder = path.expanduser().absolute().parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist either"
    return did_you_mean(path.name, [entry.name for entry in folder.iterdir() if not entry.name.startswith(".")])


def _near_hub(identifier: str) -> str:
    """Near names among the hub models in the cache and the folders here."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    cached = [p.name.removeprefix("models--").replace("--", "/") for p in cache.glob("models--*")]
    here = [p.name for p in Path.cwd().iterdir() if p.is_dir() and (p / "config.json").is_file()]
    return did_you_mean(identifier, [*cached, *here]) if cached or here else "check the spelling"
