"""A command group that imports a command when it is called, and turns errors into exit codes. Knows no command.

Exit codes: 0 done or pass · 1 gate failed · 2 usage or config · 3 gate holds for lack of evidence · 4 run failed
(model, data, disk, or a fault of ours) · 130 interrupted. Help is plain text: rich would cost as much to import as
everything else together.
"""

import errno
import os
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from inspect import cleandoc
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.main import get_command

from workbench import __version__
from workbench.cli.clashes import check_clashes
from workbench.errors import WorkbenchError

_TYPER_TYPE = re.compile(r"<(?:list\[)?(\w+)(?: range)?\]?>")
"""`<list[str]>` and `<int range>` are Typer's words; `<str>` and `<int>` say as much."""
CONTEXT = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda token: token.replace("_", "-"),  # lm-eval writes --model_args
}


@dataclass(frozen=True)
class Command:
    """A row of the command table."""

    target: str
    """`module:function`."""
    purpose: str


@dataclass(frozen=True)
class Group:
    """Commands below a common word."""

    purpose: str
    commands: "Mapping[str, Command | Group]"


class LazyGroup(TyperGroup):
    """A group made from a table. The root of the tree also owns `--version`, `--debug` and all error handling."""

    def __init__(self, name: str, purpose: str, table: Mapping[str, Command | Group], *, root: bool = False):
        # Placeholders: Typer looks into `commands` for names ("did you mean"), never for what they do.
        rows: dict[str, Any] = {key: TyperCommand(key, help=entry.purpose) for key, entry in table.items()}
        super().__init__(
            name=name,
            help=keep_examples(purpose),
            commands=rows,
            params=build_command(name, _root_options).params if root else [],
            no_args_is_help=True,
            rich_markup_mode=None,
            context_settings=dict(CONTEXT),
        )
        self.table = table
        self.root = root

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import the command and build it."""
        entry = self.table.get(cmd_name)
        match entry:
            case None:
                return None
            case Group(purpose, commands):
                return LazyGroup(cmd_name, purpose, commands)
            case Command(target, _):
                module, _, function = target.partition(":")
                return build_command(cmd_name, getattr(import_module(module), function))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the table; the inherited method would import every command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.purpose) for name, entry in self.table.items()])

    def invoke(self, ctx: Any) -> Any:
        """Run the command; at the root, errors become one line and an exit code."""
        if not self.root:
            return super().invoke(ctx)
        with errors_as_exit_codes(debug=ctx.params["debug"]):
            name = ctx._protected_args[0] if ctx._protected_args else ""
            if name != "doctor":  # doctor reports clashes along with everything else
                check_clashes()
            result = super().invoke(ctx)
            sys.stdout.flush()  # a closed pipe is noticed here, where it is handled, not at shut-down
            return result


class GroupedCommand(TyperCommand):
    """A command whose help lists options under the panels named by `rich_help_panel`, in plain text."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """One section of help per panel, in order of first use."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            default = "Arguments" if isinstance(param, TyperArgument) else "Options"
            if record is not None:
                names, text = record
                row = _TYPER_TYPE.sub(r"<\1>", names), text
                sections.setdefault(getattr(param, "rich_help_panel", None) or default, []).append(row)
        for title in sorted(sections, key=lambda title: (title != "Arguments", title == "Options")):
            with formatter.section(title):
                formatter.write_dl(sections[title])


def build_command(name: str, function: Callable[..., Any]) -> TyperCommand:
    """A Typer command from a plain function; its docstring is the help."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    text = keep_examples(function.__doc__ or "")
    app.command(name, cls=GroupedCommand, help=text, context_settings=dict(CONTEXT))(function)
    return get_command(app)  # type: ignore[return-value]  # one command: Typer makes no group of it


def keep_examples(docstring: str) -> str:
    r"""Mark paragraphs with indented lines so that help does not re-flow them (click's `\b`)."""
    paragraphs = cleandoc(docstring).split("\n\n")
    return "\n\n".join(f"\b\n{text}" if "\n  " in f"\n{text}" else text for text in paragraphs)


@contextmanager
def errors_as_exit_codes(*, debug: bool):
    """One line on stderr and the right exit code for every way a command can end badly."""
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        # Whoever read us has gone (`workbench ls | head`). What is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise SystemExit(141) from None
    except WorkbenchError as error:
        _complain(str(error), error.exit_code, debug=debug)
    except OSError as error:
        _complain(_describe(error), 4, debug=debug)
    except (typer.Exit, typer.Abort, SystemExit):
        raise
    except Exception as error:
        if _is_usage_error(error):
            raise
        # A fault of ours: exit code 1 would say "gate failed" to a CI job.
        _complain(f"unexpected {type(error).__name__}: {error} (a fault of the workbench)", 4, debug=True)


def _complain(message: str, exit_code: int, *, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(exit_code)


def _describe(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{where}the disk is full; what was computed is kept: free some space and run the same command again"
    return f"{where}{error.strerror or error}"


def _is_usage_error(error: Exception) -> bool:
    return any(kind.__name__ == "ClickException" for kind in type(error).__mro__)


def _show_version(value: bool) -> None:
    if value:
        sys.stdout.write(f"workbench {__version__}\n")
        raise typer.Exit


def _root_options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="WORKBENCH_DEBUG", help="Show an error's traceback.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Typer reads the options of the root command off this signature."""
