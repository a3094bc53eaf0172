"""The root of the command line: lazy commands, exit codes, help."""

import subprocess
import sys

import pytest

from workbench.cli.lazy import Command, Group, LazyGroup, keep_examples

HERE = "tests.workbench.cli.sample_commands"
TABLE = {
    "greet": Command(f"{HERE}:greet", "Greet somebody."),
    "fail": Command(f"{HERE}:fail", "Fail in a given way."),
    "ghost": Command("no.such.module:command", "Not there."),
    "pair": Group("Two of a kind.", {"greet": Command(f"{HERE}:greet", "Greet somebody.")}),
}


def run(*args: str) -> int:
    with pytest.raises(SystemExit) as ended:
        LazyGroup("workbench", "Test.", TABLE, root=True).main(args=list(args), prog_name="workbench")
    return int(ended.value.code or 0)


def test_a_command_runs_and_ends_with_0(capsys):
    assert run("greet", "Ada", "--limit", "3") == 0
    assert capsys.readouterr().out == "Ada  3\n"


def test_options_may_be_written_with_underscores_as_lm_eval_does(capsys):
    assert run("greet", "Ada", "--model_args", "dtype=float32") == 0
    assert "dtype=float32" in capsys.readouterr().out


def test_a_command_may_stand_in_a_group(capsys):
    assert run("pair", "greet", "Ada") == 0
    assert capsys.readouterr().out.startswith("Ada")


@pytest.mark.parametrize(
    ("how", "code", "line"),
    [
        ("user", 2, "error: models/x: no config.json; name a folder that holds a model"),
        ("run", 4, "error: logits are NaN in tile 3"),
        ("disk", 4, "error: items.parquet: the disk is full; what was computed is kept: free some space and run"),
        ("missing", 4, "error: questions.csv: No such file or directory"),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(capsys, how, code, line):
    assert run("fail", how) == code
    err = capsys.readouterr().err
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_debug_shows_the_traceback_before_the_line(capsys):
    assert run("--debug", "fail", "user") == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("error: models/x")


def test_the_environment_can_ask_for_the_traceback(capsys, monkeypatch):
    monkeypatch.setenv("WORKBENCH_DEBUG", "1")
    run("fail", "run")
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_ours_never_looks_like_a_failed_gate(capsys):
    assert run("fail", "bug") == 4
    assert "unexpected ZeroDivisionError" in capsys.readouterr().err


def test_an_interrupt_ends_with_130():
    assert run("fail", "interrupt") == 130


def test_a_command_sets_its_own_exit_code():
    assert run("fail", "gate") == 3


def test_a_usage_error_ends_with_2_and_names_the_near_option(capsys):
    assert run("greet", "Ada", "--limt", "3") == 2
    assert "--limit" in capsys.readouterr().err


def test_an_unknown_command_names_the_near_one(capsys):
    assert run("gret") == 2
    assert "Did you mean 'greet'" in capsys.readouterr().err


def test_help_of_the_root_imports_no_command(capsys):
    assert run("--help") == 0  # `ghost` would fail to import
    out = capsys.readouterr().out
    assert "ghost  Not there." in out


def test_help_of_a_command_keeps_the_examples_and_groups_the_options(capsys):
    run("greet", "--help")
    lines = capsys.readouterr().out.splitlines()
    assert "      workbench greet Ada" in lines
    assert lines.index("Arguments:") < lines.index("Model:") < lines.index("Tasks:") < lines.index("Options:")


def test_only_paragraphs_with_indented_lines_are_kept_from_flowing():
    text = keep_examples("Purpose.\n\nExamples:\n    one\n    two\n\nMore\ntext.")
    assert text == "Purpose.\n\n\b\nExamples:\n    one\n    two\n\nMore\ntext."


def test_a_closed_pipe_is_no_error():
    code = f"""
from workbench.cli.lazy import Command, LazyGroup
LazyGroup("workbench", "Test.", {{"greet": Command("{HERE}:greet", "Greet.")}}, root=True).main(["greet", "x" * 100000])
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
