"""A real S3 server on this machine: reports and checkpoints under a URL are read as if they lay here."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import save_tiny_checkpoint
from workbench.errors import CheckpointError, ConfigError, StoreError
from workbench.evaluation import EvaluationRequest
from workbench.pipeline import compare, evaluate_many, resolve_checkpoint
from workbench.store import Project, checkpoints
from workbench.store.storage import Storage

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
REQUEST = EvaluationRequest(suites=["sample-domain"], limit=5)
SECRET = "a-secret-of-the-test"


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of an empty bucket of moto's server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "tester")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        s3fs.S3FileSystem().mkdir("workbench-test")
        yield "s3://workbench-test"
    server.stop()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_project(folder: Path, storage: str) -> Project:
    folder.mkdir(exist_ok=True)
    (folder / "workbench.yaml").write_text(f"storage: {storage}\n")
    return Project.init(folder)


def all_text(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_a_checkpoint_at_a_url_is_fetched_once_and_checked(
    bucket: str, model: Path, cache: Path, tmp_path: Path
) -> None:
    url = f"{bucket}/models/tiny"
    Storage(url).put(model, checkpoints.model_files(model))
    Storage(url).put(tmp_path, [_write(tmp_path / "optimizer.pt").name])  # what a run's folder holds beside it
    here, there = checkpoints.resolve(model), resolve_checkpoint(url)
    assert (there.fingerprint, there.tokenizer) == (here.fingerprint, here.tokenizer)
    assert (there.source, there.kind, there.name) == (url, "folder", "tiny")
    folder = checkpoints.local_path(there)
    assert cache in folder.parents and not list(folder.rglob("*.pt"))
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert checkpoints.resolve(url) == there and (folder / "model.safetensors").stat().st_mtime_ns == written

    report = evaluate_many([url], project=make_project(tmp_path / "one", f"{bucket}/one"), request=REQUEST)
    alone = evaluate_many([model], project=tmp_path / "alone", request=REQUEST)
    assert report.evaluated[0].report.id == alone.evaluated[0].report.id

    other = save_tiny_checkpoint(tmp_path / "other", seed=5)
    shutil.rmtree(folder)
    _files(url).put_file(str(other / "model.safetensors"), f"{url}/model.safetensors")
    with pytest.raises(CheckpointError, match=r"other weights than .* lie at"):
        checkpoints.local_path(there)
    assert checkpoints.resolve(url).fingerprint == checkpoints.resolve(other).fingerprint
    (other / "model.safetensors").write_bytes(b"\0" * 40)
    _files(url).put_file(str(other / "model.safetensors"), f"{url}/model.safetensors")
    with pytest.raises(CheckpointError, match="safetensors"):
        checkpoints.resolve(url)
    assert not list(cache.rglob(".tmp-*"))
    assert SECRET.encode() not in all_text(tmp_path / "one") + all_text(cache)


def test_another_machine_reads_reports_and_checkpoints_of_the_project(
    bucket: str, model: Path, postgres_url: str, tmp_path: Path
) -> None:
    made, project = tmp_path / "run" / "checkpoint-3", make_project(tmp_path / "here", f"{bucket}/shop")
    shutil.copytree(model, made)
    found = resolve_checkpoint(made, project)
    project.store.add_checkpoint(found)
    project.share(found)
    project.share(found)  # again: what is there stays
    base = save_tiny_checkpoint(tmp_path / "base", seed=3)
    done = evaluate_many([made], baseline=base, project=project, request=REQUEST)
    report = done.evaluated[0]
    project.close()
    away = tmp_path / "there"
    shutil.copytree(tmp_path / "here", away, ignore=shutil.ignore_patterns("reports"))
    shutil.rmtree(made)
    with Project.find(away) as other:
        assert tuple(other.store.items(report.report.id)) == report.items
        assert compare(done.baseline.report.id, [report.report.id], project=other)[0].tasks  # type: ignore[union-attr]
        known = resolve_checkpoint(found.name, other)
        assert known.fingerprint == found.fingerprint
        assert known.source == f"{bucket}/shop/checkpoints/{checkpoints.storage_name(found)}"
        again = evaluate_many([found.name], project=other, request=REQUEST).evaluated[0]
        assert (again.computed, again.report.id) == (0, report.report.id)
        from workbench.upkeep.check import check_project

        shutil.rmtree(away / "reports")
        assert [one.text for one in check_project(other).findings if one.kind == "fault"] == []


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("s3://key:hidden@bucket/x", "storage s3://...@bucket/x: an address such as s3://bucket/folder is expected"),
        ("ftp://bucket/x", "an address such as"),
        ("s3://bucket/../other", "an address such as"),
        ("simplecache::s3://bucket/x", "an address such as"),
    ],
)
def test_an_address_that_is_none_or_holds_secrets_is_refused(url: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Storage(url)
    assert complaint in str(refused.value) and "hidden" not in str(refused.value)


def test_what_cannot_be_had_is_one_line_without_secrets(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="0 files, no model"):
        checkpoints.resolve(f"{bucket}/nothing")
    Storage(f"{bucket}/pickled").put(tmp_path, [_write(tmp_path / "pytorch_model.bin").name])
    with pytest.raises(CheckpointError, match="pickles"):
        checkpoints.resolve(f"{bucket}/pickled")
    with pytest.raises(StoreError, match="not installed"):
        Storage("gs://bucket/x").files()
    with pytest.raises(StoreError) as denied:
        Storage("s3://no-such-bucket/x").put(tmp_path, ["pytorch_model.bin"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StoreError, match="cannot be reached") as away:
        Storage("s3://bucket/x").files()
    s3fs.S3FileSystem.clear_instance_cache()
    for error in (denied, away):
        assert SECRET not in str(error.value) and "\n" not in str(error.value)


def _write(path: Path) -> Path:
    path.write_bytes(b"a pickle, perhaps")
    return path


def _files(url: str) -> Any:
    return Storage(url)._files
