"""The app, and the one place where errors become messages and exit codes.

0    done
1    a check failed
2    the request, or what it was given to read or write, is wrong
130  interrupted
70   growformer itself failed, with a traceback
"""

from __future__ import annotations

import difflib
import os
import shutil
import signal
import sys
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer

from growformer.cli.grow_command import grow
from growformer.cli.inspect_command import inspect
from growformer.cli.options import help_text
from growformer.cli.pad_command import pad
from growformer.cli.plan_command import plan
from growformer.cli.render import escaped
from growformer.cli.report_command import report
from growformer.cli.schedule_command import schedule
from growformer.cli.verify_command import verify
from growformer.cli.writing import Stopped
from growformer.errors import GrowformerError, VerificationError

NOTHING_LEFT = "nothing unfinished was left behind"
OK, CHECK_FAILED, WRONG_REQUEST, BUG, INTERRUPTED, TERMINATED = 0, 1, 2, 70, 130, 143

app = typer.Typer(
    name="growformer",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 a check failed, 2 the request or the input is wrong, 130 interrupted.",
)
for command in (inspect, plan, grow, pad, verify, report, schedule):
    app.command(help=help_text(command))(command)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"growformer {version('growformer')}")
        raise typer.Exit


def _top(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Make a transformer larger without changing what it computes.

    Look at a model, see what a growth would do, do it, and check it:

        $ growformer inspect SmolLM2-135M
        $ growformer plan SmolLM2-135M --hidden-size 720
        $ growformer grow SmolLM2-135M SmolLM2-168M --hidden-size 720
        $ growformer verify SmolLM2-135M SmolLM2-168M
        $ growformer report SmolLM2-135M SmolLM2-168M -o report.html
    """


app.callback(help=help_text(_top))(_top)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors of the user are one message on stderr.

    Args:
        arguments: without the program's name; those of the process by default.
    """
    _quiet()
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _cleaning_up_when_terminated():
            result = app(args=given or ["--help"], prog_name="growformer", standalone_mode=False)
    except VerificationError as error:
        _complain(str(error))
        return CHECK_FAILED
    except GrowformerError as error:
        _complain(str(error))
        return WRONG_REQUEST
    except OSError as error:
        _complain(f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error))
        return WRONG_REQUEST
    except (KeyboardInterrupt, Stopped) as stopped:
        _complain(f"interrupted; {str(stopped) or NOTHING_LEFT}")
        return INTERRUPTED
    except Exception as error:
        usage = _usage_error(error)
        if usage is None:
            print(escaped(traceback.format_exc()), end="", file=sys.stderr)
            _complain("this is a bug in growformer; please report it with the lines above")
            return BUG
        _complain(usage)
        return WRONG_REQUEST
    if result == INTERRUPTED:  # typer has caught the exception
        _complain(f"interrupted; {NOTHING_LEFT}")
    return result if isinstance(result, int) else OK


def _usage_error(error: Exception) -> str | None:
    """Return what was wrong with the options, in the tone of all other messages; None for any other error."""
    if not hasattr(error, "format_message"):
        return None
    message = str(error.format_message())
    context = getattr(error, "ctx", None)
    possible = getattr(error, "possibilities", None)
    if hasattr(error, "option_name") and message.startswith("No such option"):
        message = f"no option {error.option_name}"
        field = str(error.option_name).lstrip("-").replace("-", "_")
        if _takes(context, "--set") and _is_size(field):
            message += f": a size by the family's own name is --set {field}=N"
        else:
            bare = {name.lstrip("-"): name for name in possible or ()}  # dashes alone make names alike
            close = difflib.get_close_matches(str(error.option_name).lstrip("-"), bare, n=1)
            message += f"; did you mean {bare[close[0]]}?" if close else ""
    elif message[:1].isupper():
        message = message[0].lower() + message[1:]
    return message + (f"\nSee {context.command_path} --help" if context is not None else "")


def _takes(context: Any, option: str) -> bool:
    command = getattr(context, "command", None)
    return any(option in parameter.opts for parameter in getattr(command, "params", ()))


def _is_size(field: str) -> bool:
    """Tell whether some family has a size of this name."""
    from growformer.architecture.exact import names_in
    from growformer.architecture.registry import architectures

    sizes = {name for a in architectures().values() for size in a.sizes.values() for name in names_in(size)}
    return field in {name.rpartition(".")[2] for name in sizes}


def _complain(message: str) -> None:
    """Print an error, wrapped at the terminal's width but never inside a word, so that names and paths stay whole.

    What it quotes from a checkpoint cannot speak to the terminal.
    """
    prefix = "error: "
    text = prefix + escaped(message)
    if sys.stderr.isatty():
        width = max(shutil.get_terminal_size().columns, 30)
        text = "\n".join(_wrapped(line, width) for line in text.split("\n"))
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    if coloured:
        text = typer.style(prefix, fg=typer.colors.RED, bold=True) + text[len(prefix) :]
    print(text, file=sys.stderr)


def _wrapped(line: str, width: int) -> str:
    indent = " " * (len(line) - len(line.lstrip()))
    return textwrap.fill(
        line.strip(),
        width,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _quiet() -> None:
    """Keep libraries from printing over a command's own output, and let no encoding stop a message."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


@contextmanager
def _cleaning_up_when_terminated() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that an unfinished output is removed as on Ctrl-C."""

    def stop(signum: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # cleaning up is not to be interrupted in turn
        raise SystemExit(TERMINATED)

    try:
        previous = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
