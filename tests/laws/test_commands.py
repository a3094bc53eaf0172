"""What every command owes its user."""

import re
from collections.abc import Iterator, Mapping

import pytest

from workbench.cli import COMMANDS, build_cli
from workbench.cli.lazy import Command, Group, LazyGroup
from workbench.cli.reference import help_texts


def lines_of(table: Mapping[str, Command | Group], path: str) -> Iterator[tuple[str, Command]]:
    for name, entry in table.items():
        if isinstance(entry, Group):
            yield from lines_of(entry.commands, f"{path} {name}")
        else:
            yield f"{path} {name}", entry


COMMAND_LINES = [line for line, _ in lines_of(COMMANDS, "workbench")]
HELP = dict(help_texts())


@pytest.mark.parametrize(("line", "entry"), list(lines_of(COMMANDS, "workbench")))
def test_the_table_and_the_help_open_with_one_sentence_of_purpose(line, entry):
    opening = " ".join(HELP[line].split("\n\n")[1].split())
    for words, longest in ((entry.purpose, 80), (opening, 110)):
        assert words[0].isupper()
        assert words.endswith(".")
        assert words.count(". ") == 0
        assert len(words) <= longest


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_help_shows_examples_that_the_command_itself_accepts(line):
    examples = re.findall(r"^ +(?:[A-Z_]+=\S+ )?(workbench .*)$", HELP[line], re.MULTILINE)
    assert len(examples) >= 2
    assert all(parses(example) for example in examples)


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_every_option_is_explained(line):
    command, _ = find_command(line.split()[1:])
    unexplained = [param.name for param in command.params if not getattr(param, "help", "")]
    assert unexplained == []


def find_command(words):
    """The command that the words name, and the words that are left."""
    command = build_cli()
    while isinstance(command, LazyGroup):
        context = command.make_context("workbench", [], resilient_parsing=True)
        found = command.get_command(context, words[0]) if words else None
        assert found is not None, f"no such command: {' '.join(words)}"
        command, words = found, words[1:]
    return command, words


def parses(example: str) -> bool:
    """Does the command accept these arguments and options? Nothing is run."""
    import shlex

    command, words = find_command(shlex.split(example, comments=True)[1:])
    command.make_context("workbench", words)  # raises a usage error
    return True
