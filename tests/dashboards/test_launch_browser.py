"""From a press on Launch to an answer of the served result, in a real browser and without a terminal."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from playwright.sync_api import Browser, expect

from dashboards import jobs
from tests.dashboards.browsing import Visit, serve
from tests.dashboards.making import add_recipe, make_empty
from workbench.cli import main
from workbench.progress import list_runs
from workbench.store import Project
from workbench.store.audit import audit_rows

SLOW = 180_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = make_empty(tmp_path / "p")
    add_recipe(made)
    return made


@pytest.fixture
def window(browser: Browser, root: Path) -> Iterator[Visit]:
    with serve(root) as url:
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        yield Visit(context, url)
        context.close()
        for job in jobs.list_jobs(root):
            jobs.stop_job(root, job.id)


def ended(window: Visit, root: Path, kind: str) -> jobs.Job:
    """The newest job of a kind, once the page itself says that it is over."""
    expect(window.page.get_by_text(re.compile("begun .* by ")).first).to_be_visible(timeout=SLOW)
    expect(window.page.get_by_role("button", name="Stop")).to_have_count(0, timeout=SLOW)
    window.settle()
    job = next(one for one in jobs.list_jobs(root) if one.kind == kind)
    assert job.code in (0, 1, 3), jobs.read_output(root, job.id)
    return job


def press(window: Visit, name: str) -> None:
    window.page.get_by_test_id("stMain").get_by_role("button", name=name, exact=True).click()
    window.settle()


def test_a_run_is_launched_decided_served_and_gone_on_from_without_a_terminal(
    window: Visit, root: Path, capsys: Any
) -> None:
    page = window.open("launch")
    page.get_by_role("slider").focus()
    for _ in range(25):
        page.keyboard.press("ArrowLeft")
    press(window, "Launch")
    expect(page.get_by_role("button", name="Stop")).to_be_visible(timeout=SLOW)
    trained = ended(window, root, "train")
    (run,) = list_runs(Project.find(root))
    assert (run.name, run.state) == ("pushed", "done") and run.outcome in ("pass", "hold", "fail")
    mix = yaml.safe_load((root / "recipes" / "pushed.yaml").read_text())["mix"]
    assert [source["share"] for source in mix] == pytest.approx([0.75, 0.25])

    expect(page.get_by_text("Go on from a result")).to_be_visible(timeout=SLOW)
    press(window, "Decide")
    expect(page.get_by_text("workbench gate pushed/checkpoint-").first).to_be_visible(timeout=SLOW)
    assert ended(window, root, "gate").id != trained.id

    press(window, "Serve")
    expect(page.get_by_text("It answers at http")).to_be_visible(timeout=SLOW)
    told = page.get_by_text("It answers at http").inner_text()
    url = re.search(r"http://[0-9.:]+/v1", told)
    assert url is not None, told
    before = len(audit_rows(Project.find(root).store.database))
    asked = {"model": "pushed", "messages": [{"role": "user", "content": "Where is bone 3?"}], "max_tokens": 4}
    models = httpx.get(f"{url[0]}/models", timeout=60).json()
    asked["model"] = models["data"][0]["id"]
    answer = httpx.post(f"{url[0]}/chat/completions", json=asked, timeout=60)
    assert answer.status_code == 200 and answer.json()["choices"][0]["message"]["role"] == "assistant"
    assert len(audit_rows(Project.find(root).store.database)) > before, "the guard wrote nothing down"
    press(window, "Stop")
    expect(page.get_by_text("● stopped").first).to_be_visible(timeout=SLOW)

    press(window, "Train on from it")
    expect(page.get_by_text("run/pushed").first).to_be_visible(timeout=SLOW)
    assert window.complaints == []
    with pytest.raises(SystemExit):
        main(["runs", "--project", str(root)])
    assert "pushed" in capsys.readouterr().out
