"""What tests of serving share: a store, two tenants with policies of their own, a server with a tiny real model."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from safety.guard import Guard
from safety.policy import load_policy
from tests.words import POLICY, WordJudge
from tests.workbench.serve.running import serving, tiny_backend
from workbench.serve.tenants import Tenants, key_digest
from workbench.store import Store

# A busy machine must not make these judges late: what lateness does has tests of its own.
PATIENT = POLICY.replace("timeout_ms: 300", "timeout_ms: 30000").replace("budget_ms: 400", "budget_ms: 60000")
LENIENT = PATIENT.replace("id: test", "id: lenient").replace(
    "actions: {user_input: block, model_output: block", "actions: {user_input: log, model_output: log"
)
KEYS = {"strict": "wb-key-of-strict", "lenient": "wb-key-of-lenient", "small": "wb-key-of-small"}


@pytest.fixture(scope="session")
def policies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("policies")
    files = {"strict": folder / "strict.yaml", "lenient": folder / "lenient.yaml"}
    files["strict"].write_text(PATIENT.replace("id: test", "id: strict"))
    files["lenient"].write_text(LENIENT)
    return files


@pytest.fixture(scope="module")
def tenants(policies: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Tenants:
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    file.write_text(
        "schema: keys/v1\ntenants:\n"
        f"- {{tenant: acme, policy: {policies['strict']}, community: shops, "
        f"keys: ['sha256:{key_digest(KEYS['strict'])}']}}\n"
        f"- {{tenant: redteam, policy: {policies['lenient']}, keys: ['sha256:{key_digest(KEYS['lenient'])}']}}\n"
        f"- {{tenant: small, policy: {policies['strict']}, keys: ['sha256:{key_digest(KEYS['small'])}'], "
        "requests_per_minute: 2, system: You are brief.}\n"
    )
    return Tenants.load(file)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One for all tests of a module; look at what came since."""
    store = Store.open("sqlite:///serve.sqlite", folder=tmp_path_factory.mktemp("store"))
    yield store
    store.close()


@pytest.fixture(scope="module")
def guards(policies: dict[str, Path]) -> dict[str, Guard]:
    return {str(file): Guard(load_policy(file), {"words": WordJudge()}) for file in policies.values()}


@pytest.fixture(scope="module")
def url(tenants: Tenants, guards: dict[str, Guard], store: Store) -> Iterator[str]:
    with serving(tiny_backend(), guards=guards, tenants=tenants, store=store, max_bytes=200_000) as url:
        yield url


@pytest.fixture
def strict(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=KEYS["strict"], max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
def lenient(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key=KEYS["lenient"], max_retries=0, timeout=60) as client:
        yield client
