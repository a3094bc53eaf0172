import io
import re
import time
from dataclasses import replace

from tests.workbench.publish import samples
from workbench.cli.output import print_table
from workbench.cli.tables import report_table
from workbench.cli.verdicts import comparison_table, decision_table, flips_table, trajectory_table, verdict_notes
from workbench.records import Estimate, Report, TaskResult


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(table, width: int, monkeypatch) -> list[str]:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    file = Terminal()
    print_table(*table, file=file, width=width)
    return file.getvalue().splitlines()


def test_at_80_columns_verdict_change_and_margin_are_shown(monkeypatch):
    lines = shown(comparison_table(samples.comparison()), 80, monkeypatch)
    assert lines[0].split() == ["task", "verdict", "change", "[90%]", "margin"]
    assert lines[6].split() == ["arc_easy", "■", "forgot", "−12.3", "[−15.0,", "−9.7]", "2"]
    assert lines[7].startswith("wikitext (bits per byte)") and "+0.0310 [+0.0204, +0.0420]" in lines[7]
    assert len(lines) == 1 + len(samples.TASKS)


def test_verdicts_have_colours_on_a_terminal_and_columns_stay_aligned(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    file, pipe = Terminal(), io.StringIO()
    print_table(*comparison_table(samples.comparison()), file=file, width=80)
    print_table(*comparison_table(samples.comparison()), file=pipe)
    lines = file.getvalue().splitlines()
    assert "\x1b[31m■ forgot\x1b[0m" in lines[6] and "\x1b[32m● kept\x1b[0m" in lines[2]
    plain = shown(comparison_table(samples.comparison()), 80, monkeypatch)
    assert [re.sub(r"\x1b\[\d+m", "", line) for line in lines] == plain
    assert "\x1b" not in pipe.getvalue()


def test_a_wide_terminal_and_a_pipe_show_everything(monkeypatch):
    columns, rows = comparison_table(samples.comparison())
    assert shown((columns, rows), 160, monkeypatch)[0].split()[-3:] == ["n", "lost", "gained"]
    assert rows[1] == ["piqa", "● kept", "+0.2 [−1.1, +1.6]", "2", None, "62.8%", "63.0%", "1,278", "38", "41"]
    assert rows[-1] == ["boolq (advisory)", "✕ incomparable", "–", "2", None, "–", "–", "0", None, None]


def test_a_decision_shows_rules_overrides_and_advice():
    rules = [
        samples.rule(samples.FORGOT, overridden="Ann: known"),
        samples.LIMIT_RULE,
        samples.rule(samples.UNINFORMATIVE),
    ]
    _, rows = decision_table(samples.decision(*rules), samples.comparison())
    assert [row[:2] for row in rows] == [
        ["arc_easy kept", "■ fail (overridden)"],
        ["refusals at most 5%", "● pass"],
        ["mmlu_letter kept (advisory)", "▲ hold"],
    ]
    assert rows[1][2:4] == ["2.1% [1.1%, 3.9%]", "5%"]


def test_a_flip_cannot_write_to_the_terminal():
    _, [row] = flips_table(
        [samples.flip(prompt="\x1b]0;title\x07\x1b[2J?", target="\u202eabc", baseline_answer="x" * 90)]
    )
    text = " ".join(row)
    assert "\x1b" not in text and "\u202e" not in text and "⟨U+001B⟩" in text
    assert row[0] == "■ lost"
    assert max(len(cell) for cell in row) <= 60


def candidate(name: str, digit: str, *tasks):
    return samples.comparison(*tasks, candidate_checkpoint=samples.checkpoint(name, digit))


def test_a_trajectory_has_a_column_for_each_candidate_in_order(monkeypatch):
    table = trajectory_table(
        [
            candidate("step", "1", samples.KEPT, samples.FORGOT_BITS),
            candidate("step", "2", samples.KEPT, samples.INCONCLUSIVE),
            candidate("last", "3", replace(samples.FORGOT, task="piqa"), samples.INCOMPARABLE),
        ]
    )
    assert [column.name for column in table[0]] == ["task", "step@111111", "step@222222", "last"]
    assert table[1] == [
        ["piqa", "● +0.2", "● +0.2", "■ −12.3"],
        ["wikitext (bits per byte)", "■ +0.0310", None, None],
        ["openbookqa", None, "▲ −1.2", None],
        ["boolq", None, None, "✕ –"],
        ["required tasks", "■ fail", "▲ hold", "■ fail"],
    ]
    assert shown(table, 48, monkeypatch)[0].split() == ["task", "step@222222", "last"]  # the latest stay


def test_a_hundred_checkpoints_of_fifty_tasks_take_less_than_two_seconds():
    tasks = [replace(samples.KEPT, task=f"task_{n}") for n in range(50)]
    many = [candidate(f"step-{n}", "1", *tasks) for n in range(100)]
    started = time.perf_counter()
    columns, rows = trajectory_table(many)
    assert time.perf_counter() - started < 2
    assert (len(columns), len(rows)) == (101, 51)


def test_notes_say_what_the_table_does_not():
    notes = verdict_notes(samples.comparison(*samples.TASKS, replace(samples.KEPT, missing=3, notes=("prompts cut",))))
    assert "openbookqa cannot be certified with 500 items; about 1,240 more would decide." in notes
    assert "hellaswag: kept, with a small real loss" in notes
    assert {"piqa: 3 items have no pair", "piqa: prompts cut"} <= set(notes)


def report(digit: str, value: float) -> Report:
    estimate = Estimate(metric="acc_norm", value=value, low=value - 0.024, high=value + 0.024, n=1655, method="wilson")
    result = TaskResult(
        task="arc_easy", role="general", margin=0.02, required=True, metric="acc_norm", estimates=(estimate,), n=1655,
        num_fewshot=0,
    )  # fmt: skip
    made = samples.checkpoint("smollm2" if digit == "a" else "smollm2-3bit", digit)
    return Report(
        id=digit * 64, checkpoint=made, suites=(), results=(result,), settings={}, created_at="", environment={}
    )


def test_at_80_columns_the_table_of_eval_keeps_change_and_verdict(monkeypatch):
    reports = [report("a", 0.450), report("b", 0.327)]
    table = report_table(reports, {reports[1].id: samples.comparison(samples.FORGOT)})
    assert [column.name for column in table[0]][:3] == ["task", "metric", "n"]
    heads, row = shown(table, 80, monkeypatch)
    assert heads.split()[-3:] == ["change", "[90%]", "verdict"]
    assert "■ forgot" in row and "-0.123 [-0.150, -0.097]" in row
    assert "metric" not in heads
