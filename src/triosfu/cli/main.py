"""Reads the command line, and turns every mistake of its user into one line and exit code 2."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

import triosfu
from triosfu.cli.keys import keys
from triosfu.cli.run import run
from triosfu.cli.tasks import tasks
from triosfu.cli.token import token
from triosfu.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

USAGE = 2  # the exit code for bad options and bad configuration
INTERRUPTED = 130

app = typer.Typer(
    name="triosfu",
    help="A WebRTC SFU that LiveKit clients use unchanged.",
    add_completion=False,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
)
app.command()(run)
app.command()(tasks)
app.add_typer(token)
app.add_typer(keys)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command: `argv` is what stands after the program's name. Returns the exit code, and raises only bugs."""
    try:
        code = app(args=None if argv is None else list(argv), prog_name="triosfu", standalone_mode=False)
    except typer.TyperException as error:
        return _refuse(_usage_line(error))
    except ConfigError as error:
        return _refuse(str(error))
    except ExceptionGroup as group:
        # A nursery wraps even the one error that it passes on.
        wrong, bugs = group.split(ConfigError)
        if wrong is None or bugs is not None:
            raise
        return _refuse(str(_leaf(wrong)))
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return code if isinstance(code, int) else 0


@app.callback()
def _common(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"triosfu {triosfu.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _refuse(line: str) -> int:
    sys.stderr.write(" ".join(line.split()) + "\n")
    return USAGE


def _usage_line(error: typer.TyperException) -> str:
    """A mistake in the options as one line that starts with the option."""
    parameter = getattr(error, "param", None)
    option = getattr(error, "option_name", None) or (parameter.opts[0] if parameter is not None else None)
    message = str(getattr(error, "message", "") or error)
    if option is None:
        context = getattr(error, "ctx", None)
        return f"{context.command_path if context is not None else 'triosfu'}: {message}"
    if type(error).__name__ == "NoSuchOption":
        message = "there is no such option"
    elif type(error).__name__ == "MissingParameter":
        message = "is missing"
    return f"{option}: {message}"


def _leaf(group: ExceptionGroup[ConfigError]) -> ConfigError:
    inner = group.exceptions[0]
    return _leaf(inner) if isinstance(inner, ExceptionGroup) else inner
