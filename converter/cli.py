"""The command line: finds the commands, shows errors, sets exit codes. What a command does is in its own file and its stage.

Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 a bug, 2 wrong usage, 3 parity, 4 not
supported, 5 invalid input, 6 resources, 130 interrupted; those of 1 to 6 come with the error classes of `runtime/contract/errors.py`.
"""

from __future__ import annotations

import errno
import importlib
import importlib.util
import os
import pkgutil
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

import click
from kexport.runtime.contract.errors import EXIT_INTERRUPTED, KexportError, ResourceError, UsageError
from kexport.runtime.contract.version import __version__

COMMANDS = "kexport.converter.commands"
EXIT_BROKEN_PIPE = 141  # what a shell shows for a program that SIGPIPE ended
PROGRAM = "kexport"
DEBUG_HINT = "this is a bug in kexport: run the command again with --debug and report what it prints"


@dataclass
class Settings:
    """What holds for a whole run of the program."""

    debug: bool = False


def _set_debug(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Settings).debug = True


def _everywhere() -> list[click.Parameter]:
    """The options that stand before or after the command's name."""
    debug = click.Option(
        ["--debug"], is_flag=True, expose_value=False, is_eager=True, callback=_set_debug, help="Show details and traceback of errors."
    )
    version = click.Option(
        ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show the version and exit."
    )
    return [debug, version]


def _show_version(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(f"{PROGRAM} {__version__}")
        context.exit()


class CommandFolder(click.Group):
    """A group whose commands are the files of a package, imported when they are asked for."""

    def __init__(self, *args: Any, package: str = COMMANDS, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._package = package

    def list_commands(self, context: click.Context) -> list[str]:
        """The files' names; none is imported."""
        package = importlib.import_module(self._package)
        return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """The `command` of the file `name`."""
        if name not in self.list_commands(context):
            return None
        command: click.Command = importlib.import_module(f"{self._package}.{name}").command
        command.name = name
        known = {parameter.name for parameter in command.params}
        command.params += [option for option in _everywhere() if option.name not in known]
        return command

    def invoke(self, context: click.Context) -> Any:
        """Run the command; a closed pipe is caught here, because click would make it an exit with 1, which stands for a bug."""
        try:
            return super().invoke(context)
        except BrokenPipeError:
            return _reader_is_gone()

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *_: Any, **extra: Any) -> NoReturn:
        """Run, show an error as it should look, and exit with its code."""
        settings = Settings()
        extra.update(standalone_mode=False, obj=settings)
        with _terminate_as_interrupt(), _plain_warnings(settings):
            sys.exit(self._exit_code(settings, args, prog_name or PROGRAM, extra))

    def _exit_code(self, settings: Settings, args: Sequence[str] | None, prog_name: str, extra: dict[str, Any]) -> int:
        try:
            result = super().main(args, prog_name, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True, color=_color())
            return UsageError.exit_code
        except click.UsageError as error:
            return show_error(_usage_error(error, prog_name), settings)
        except click.ClickException as error:
            return show_error(UsageError("KX100", error.format_message()), settings)
        except KexportError as error:
            return show_error(error, settings)
        except (KeyboardInterrupt, click.Abort):
            click.echo("interrupted", err=True)
            return EXIT_INTERRUPTED
        except MemoryError:
            return show_error(
                ResourceError("KX604", "out of memory", hint="close other programs, or use a smaller batch or --max-length"), settings
            )
        except OSError as error:
            return show_error(_of_the_system(error), settings)
        except Exception as error:  # noqa: BLE001  the outermost door: whatever it is, the user gets one line and a way to report it
            return show_error(KexportError("KX900", f"internal error: {type(error).__name__}: {error}", hint=DEBUG_HINT), settings)
        return result if isinstance(result, int) else 0


def show_error(error: KexportError, settings: Settings) -> int:
    """Print `error` to standard error as the user sees it, and return its exit code."""
    head = click.style(f"error[{error.code}]:", fg="red", bold=True)
    click.echo(f"{head} {error.message}", err=True, color=_color())
    if error.hint:
        click.echo(f"{click.style('hint:', fg='cyan')} {error.hint}", err=True, color=_color())
    if settings.debug:
        if error.detail:
            click.echo(error.detail, err=True)
        click.echo(traceback.format_exc().rstrip(), err=True)
    return error.exit_code


def _color() -> bool | None:
    """False where the user asked for none; None lets click look at the stream."""
    return False if os.environ.get("NO_COLOR") else None


def _usage_error(error: click.UsageError, program: str) -> KexportError:
    where = error.ctx.command_path if error.ctx is not None else program
    return UsageError("KX100", error.format_message(), hint=f"see `{where} --help`")


def _of_the_system(error: OSError) -> KexportError:
    """An operating system's refusal that no stage has dressed: a full disk is a resource, anything else a bug of ours."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError("KX601", f"the disk is full: {error}", hint="free some space, or work on another disk")
    return KexportError("KX900", f"internal error: {type(error).__name__}: {error}", hint=DEBUG_HINT)


def _reader_is_gone() -> int:
    """Whoever read our output stopped reading (`kexport inspect X | head`): end quietly."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BROKEN_PIPE


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """While the block runs, SIGTERM is as Ctrl-C: half-written directories are removed on the way out."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    try:
        previous = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: somebody calls the command line from a program of their own
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _plain_warnings(settings: Settings) -> Iterator[None]:
    """While the block runs, what our rooms warn of is one line for the user; libraries' warnings to programmers need --debug."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        if settings.debug or category is UserWarning:
            click.echo(f"{click.style('warning:', fg='yellow')} {message}", err=True, color=_color())

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@click.group(cls=CommandFolder, params=_everywhere(), context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Take generative Keras models out of Python: cache-aware graphs, a thin runtime, and a proof that the tokens are the same."""


def main() -> NoReturn:
    """The console script."""
    from kexport.runtime.native_output import mute_at_exit

    mute_at_exit()
    cli.main()
