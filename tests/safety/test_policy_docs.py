"""What docs/policies.md shows can be done."""

import json
import re
import subprocess
import sys
from pathlib import Path

from safety.policy import load_policy
from safety.replay import past_item
from tests.safety.policy_files import TODAY

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_the_first_policy_of_the_page_can_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(blocks("yaml")[0])
    found = load_policy(tmp_path / "shop.yaml", today=TODAY)
    assert found.action("regulated_goods", "model_output") == "block"
    assert found.action("specialized_advice", "model_output") == "hold"


def test_the_item_of_the_page_can_be_replayed() -> None:
    item = past_item(json.loads(blocks("json")[0]), default_id="1")
    assert (item.community, item.action, item.judgements[0].value) == ("askhistory", "hold", "uncertain")


def test_the_python_of_the_page_runs() -> None:
    done = subprocess.run([sys.executable, "-c", blocks("python")[0]], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.startswith("log cyber_offense.exploit_dev: violates"), done.stderr
