"""The command line: the only package that reads arguments, prints and exits.

Results go to stdout (a table, or JSON with --json), progress and errors to stderr. Exit codes: 0 done, 1 the answer is
no, 2 bad input, 3 a source could not be reached, 130 interrupted. Every verb imports what it needs when it runs.
"""

from __future__ import annotations

import errno
import json
import logging
import signal
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from analysis.errors import AutoscaleError, BadInput
from analysis.files import UNWRITABLE, leave_no_empty_directories
from analysis.redact import redact
from autoscale.cli import cluster, fleet, lists, load, production, runs
from autoscale.cli.printing import leave_stdout
from autoscale.cli.usage import usage_sentence
from autoscale.examples import epilog

app = typer.Typer(
    help="Find, write and prove HPA targets for vLLM on Kubernetes.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
EXIT_INTERRUPTED = 130
ODD_SHOWN = 60  # characters before one that cannot be written: a page has thousands
VERBS = (  # in the order of --help
    fleet.serve,
    fleet.simulate,
    load.load_,
    runs.collect,
    production.traffic,
    runs.recommend,
    production.watch,
    runs.predict,
    runs.profile,
    runs.report,
    cluster.manifests,
    cluster.lint,
    cluster.check,
    lists.profiles,
    lists.signals,
    lists.traces,
    fleet.demo,
)


def _show_version(asked: bool) -> None:
    if asked:
        from autoscale.version import own_version

        print(f"autoscale {own_version()}")
        raise typer.Exit


@app.callback()
def autoscale(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Find, write and prove HPA targets for vLLM on Kubernetes."""


def main() -> NoReturn:
    """Run the command line and exit with the code of its outcome."""
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell made a background job ignore SIGINT
        signal.signal(number, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # the end of the terminal; nohup ignores it
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    # What it retries is told in the sentence of the end; libraries give it handlers, the Kubernetes client its level.
    logging.getLogger("urllib3").propagate = False
    try:
        code = _called()
    except AutoscaleError as error:
        if "--json" in sys.argv:
            print(json.dumps({"error": type(error).__name__, "sentence": str(error)}))
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        leave_stdout()
        sys.exit(0)
    except Exception as error:  # noqa: BLE001  # what nobody foresaw is told, too, without its secrets
        if not hasattr(error, "show"):
            sys.exit(redact("".join(traceback.format_exception(error))))
        error.message = redact(usage_sentence(error))  # type: ignore[attr-defined]
        error.show()
        sys.exit(getattr(error, "exit_code", 2))
    if code == EXIT_INTERRUPTED:
        print("interrupted: what was written so far stays readable", file=sys.stderr)
    sys.exit(code if isinstance(code, int) else 0)


def _called() -> object:
    """What the verb returns. Raises BadInput for a name that no file can have, wherever it was met, where nothing can
    be written, for a file that went away meanwhile, and without the extra whose packages the verb needs."""
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
        return code
    except SystemExit as ended:  # Typer's code of a pipe that nobody reads is 1
        if isinstance(ended.__context__, BrokenPipeError):
            raise ended.__context__ from None
        raise
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package in ("analysis", "autoscale", "loadgen"):
            raise
        raise BadInput(
            f"{package} is not installed", next_step="install it: pip install 'llm-autoscale[plan]'"
        ) from None
    except UnicodeEncodeError as error:
        raise BadInput(
            "a name or a text holds bytes that are not UTF-8",
            value=_around_odd(redact(error.object)),
            next_step="give it another name",
        ) from None
    except OSError as error:
        if error.errno in UNWRITABLE:
            leave_stdout()
            raise BadInput(
                f"cannot write the output: {UNWRITABLE[error.errno]}",
                next_step="make room, or write elsewhere",
            ) from None
        if error.errno == errno.ENOENT:
            raise BadInput(
                "a file went away while it was in use", value=error.filename or str(error)
            ) from None
        if error.errno != errno.ENAMETOOLONG:
            raise
        raise BadInput("the name of a file is too long", value=str(error.filename)) from None
    finally:
        leave_no_empty_directories()


def _around_odd(text: str) -> str:
    """The first character that no file can hold, with what is before it."""
    at = next((k for k, c in enumerate(text) if "\ud800" <= c <= "\udfff"), 0)
    return text[max(0, at - ODD_SHOWN) : at + 1]


LOCUSTS = {"ignore_unknown_options": True, "help_option_names": []}  # what follows `load` is Locust's to read
for verb in VERBS:
    typed = verb.__name__.rstrip("_")
    app.command(typed, epilog=epilog(typed), context_settings=LOCUSTS if verb is load.load_ else None)(verb)
