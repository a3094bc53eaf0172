"""What docs/security.md promises and no other test shows: hostile files, foreign pages, names that lead elsewhere."""

import json
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from workbench.errors import CheckpointError, ConfigError, EngineError, StoreError, WorkbenchError

# Checkpoint files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text("{}")
    return folder


def header(text: bytes, *, said: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text) if said is None else said) + text + data


BOMBS = {
    "a header longer than the file": header(b"{}", said=2**40),
    "a header of all the file": header(b"{}", said=2**63),
    "a header nested without end": header(b"[" * 200_000),
    "an object nested without end": header(b'{"a":' * 100_000),
    "a header that is no JSON": header(b"\x80\x04pickle"),
    "offsets beyond the file": header(b'{"w":{"dtype":"F32","shape":[9],"data_offsets":[0,99999999999]}}'),
    "offsets that are no numbers": header(b'{"w":{"dtype":"F32","shape":[1],"data_offsets":["0","4"]}}'),
    "nothing": b"",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_hostile_safetensors_file_is_refused_in_one_line_and_at_once(model: Path, bomb: str) -> None:
    from workbench.store import resolve

    (model / "model.safetensors").write_bytes(BOMBS[bomb])
    begun = time.monotonic()
    with pytest.raises(CheckpointError) as told:
        resolve(model)
    assert "\n" not in str(told.value)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "weights.ckpt"])
def test_a_pickle_is_refused_and_never_opened(model: Path, name: str) -> None:
    import pickle

    from workbench.store import resolve

    class Boom:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return Path.touch, (model / "was-run",)  # type: ignore[return-value]

    (model / name).write_bytes(pickle.dumps(Boom()))
    with pytest.raises(CheckpointError, match="can run code when opened"):
        resolve(model)
    assert not (model / "was-run").exists()


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "weights.bin", 7, None])
def test_an_index_of_weights_leads_nowhere_else(model: Path, shard: object) -> None:
    from workbench.store import resolve

    (model.parent / "secret.safetensors").write_bytes(header(b"{}"))
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": shard}}))
    with pytest.raises(CheckpointError, match="no name of a weight file beside it"):
        resolve(model)


def test_a_config_nested_without_end_is_no_valid_json(model: Path) -> None:
    from workbench.store import resolve

    (model / "config.json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="no valid JSON"):
        resolve(model)


# YAML ----------------------------------------------------------------------------------------------------------------

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    "text",
    [LAUGHS, "[" * 50_000, "a: " * 3000, "- " * 50_000, "{a: " * 20_000, "x: " + "y" * 21_000_000],
    ids=["a billion laughs", "lists without end", "keys in a row", "dashes", "mappings without end", "too long"],
)
def test_a_yaml_bomb_is_refused_in_one_line_and_at_once(tmp_path: Path, text: str) -> None:
    from workbench.config import ProjectConfig, load_yaml

    file = tmp_path / "workbench.yaml"
    file.write_text(text)
    begun = time.monotonic()
    with pytest.raises(ConfigError) as told:
        load_yaml(file, ProjectConfig)
    assert "\n" not in str(told.value)
    assert len(str(told.value)) < 1000
    assert time.monotonic() - begun < 10


def test_tags_that_make_objects_are_refused(tmp_path: Path) -> None:
    from workbench.config import read_yaml

    (tmp_path / "a.yaml").write_text("a: !!python/object/apply:os.system ['touch was-run']\n")
    with pytest.raises(ConfigError):
        read_yaml(tmp_path / "a.yaml")


# Names that lead out of a folder -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../out", "a/b", "/etc/cron.d/x", "..", "a\x00b", ""])
def test_the_name_of_a_run_is_the_name_of_one_folder(name: str) -> None:
    from tests.training.test_run import make_recipe

    with pytest.raises((ValueError, WorkbenchError)):
        make_recipe(recipe=name)


@pytest.mark.parametrize("name", ["../x", "a/../b", "t/q/r", "", ".", "a b", "a\nb"])
def test_the_name_of_a_queue_is_no_path(name: str) -> None:
    from safety.review.queue import queue_id
    from workbench.errors import ReviewError

    with pytest.raises(ReviewError):
        queue_id(name)


@pytest.mark.parametrize("reference", ["../../etc/passwd", "latest/../x", "%2e%2e", "*"])
def test_a_report_is_found_by_its_id_and_by_no_path(tmp_path: Path, reference: str) -> None:
    from workbench.store import Store

    with Store.open("sqlite:///s.sqlite", folder=tmp_path) as store, pytest.raises(StoreError, match="not in this"):
        store.items(reference)


# Pages of other sites ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keyless() -> Iterator[str]:
    from tests.workbench.serve.running import serving, tiny_backend

    with serving(tiny_backend()) as url:
        yield url


def post(url: str, headers: dict[str, str], path: str = "/models") -> int:
    import httpx

    with httpx.Client(trust_env=False, timeout=60) as client:
        if path == "/models":
            return client.get(url + path, headers=headers).status_code
        body = json.dumps({"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}]})
        return client.post(url + path, content=body, headers=headers).status_code


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"origin": "null"}, {"host": "evil.example"}, {"host": "evil.example:80"},
     {"host": "127.0.0.1.evil.example"}, {"origin": "http://localhost:1"}],
)  # fmt: skip
def test_a_page_of_another_site_cannot_ask_a_server_without_keys(keyless: str, headers: dict[str, str]) -> None:
    assert post(keyless, {}) == 200
    assert post(keyless, {"host": "localhost"}) == 200
    assert post(keyless, headers) == 403
    assert post(keyless, headers | {"content-type": "application/json"}, "/chat/completions") == 403


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_a_body_that_a_form_could_send_is_no_request(keyless: str, kind: str) -> None:
    assert post(keyless, {"content-type": kind}, "/chat/completions") in (400, 422)


# Where requests go ---------------------------------------------------------------------------------------------------


class _Models(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps({"data": [], "host": self.headers["Host"]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server() -> Iterator[int]:
    listening = HTTPServer(("127.0.0.1", 0), _Models)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield listening.server_address[1]
    listening.shutdown()
    listening.server_close()


@pytest.mark.parametrize("address", ["169.254.169.254", "127.0.0.1", "0.0.0.0", "::1", "fe80::1", "224.0.0.1",
                                     "::ffff:169.254.169.254", "::ffff:127.0.0.1"])  # fmt: skip
def test_an_allowed_name_that_leads_to_this_machine_or_to_metadata_is_not_asked(server: int, address: str) -> None:
    from workbench.engines._endpoint import Endpoint
    from workbench.errors import RunError

    endpoint = Endpoint(f"http://judge.example:{server}/v1", allowed=["judge.example"], attempts=1,
                        api_key_env="NO_SUCH_KEY", resolver=lambda *_: [address])  # fmt: skip
    with pytest.raises(RunError, match="leads to"):
        endpoint.get("/models")


def test_a_name_is_resolved_once_and_what_was_looked_at_is_asked(server: int) -> None:
    from workbench.engines._endpoint import Endpoint

    asked = []

    def resolver(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["127.0.0.1"]

    endpoint = Endpoint(f"http://localhost:{server}/v1", attempts=1, api_key_env="NO_SUCH_KEY", resolver=resolver)
    assert endpoint.get("/models")["host"] == f"localhost:{server}"
    assert asked == [("localhost", server)]


@pytest.mark.parametrize("url", ["http://10.0.0.7/v1", "https://metadata.internal/v1", "ftp://a/v1", "file:///etc/passwd",
                                 "http://user:pass@localhost/v1", "http://[::ffff:10.0.0.1]/v1"])  # fmt: skip
def test_a_judge_at_a_host_that_nobody_allowed_is_refused(url: str) -> None:
    from workbench.engines._endpoint import check_url

    with pytest.raises(EngineError):
        check_url(url, [])
