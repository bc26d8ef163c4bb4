"""The command `zoo-runtime`: one module per subcommand, which is imported only if it is called.

The exit code is 0 if all went well, 1 if something failed, 2 if the command line is wrong, and 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

from .._errors import ZooRuntimeError
from .._version import __version__

# Each command, and what the help of `zoo-runtime` says about it. Its module has DESCRIPTION, add_arguments and run.
COMMANDS = {
    "predict": "label pictures",
    "info": "show what the file says about itself",
    "check": "run the file's self-test on this machine",
    "bench": "measure speed and memory on this machine",
    "tune": "find the settings that suit this machine",
    "drift": "compare pictures with the training pictures",
    "serve": "answer pictures over HTTP, with a page to try it",
    "watch": "label what a camera sees, or new pictures in a folder",
    "update": "put a new file in the place of the present one",
    "rollback": "go back to the file before the latest update",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command `zoo-runtime` and return its exit code.

    Args:
        arguments: The arguments after the name of the command. None means the arguments of this process,
            `sys.argv[1:]`.

    Raises:
        SystemExit: If the arguments are wrong (exit code 2), or ask for help or the version (exit code 0).
    """
    # File names need not be valid text; printing one must not end the run.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # Pillow's warnings about odd but readable files would mix with the answers.
    warnings.filterwarnings("ignore", module="PIL")
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser(words)
    if not words:
        parser.print_help(sys.stderr)
        parser.exit(2)
    try:
        options, more = parser.parse_known_args(words)
        options.words = words
        # argparse does not accept paths after an option if there are paths before it too.
        if more and hasattr(options, "paths") and not any(text.startswith("-") for text in more):
            options.paths += more
        elif more:
            # The usage of the command lists the options that it has.
            options.usage(f"unrecognized arguments: {' '.join(more)}")
    except SystemExit as ended:
        files = [text for text in words if text.startswith("-") and os.path.isfile(text)]
        if ended.code and files:
            print(f"If {files[0]!r} is meant as a file, write './{files[0]}'.", file=sys.stderr)
        raise
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            command: Callable[[argparse.Namespace], int] = options.run
            return command(options)
    except ZooRuntimeError as error:
        from .._limit import with_option_names

        print(f"error: {with_option_names(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `zoo-runtime predict ... | head` closes the pipe, so nobody reads a message.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is not None:
            raise
        print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
        return 1


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _use_utf8() -> None:
    """Start Python again in its UTF-8 mode if it can name files and print in ASCII only, as in the C locale.

    Class names are names of folders. Without this, those that are not ASCII would be read and printed as escapes.
    """
    if sys.getfilesystemencoding() == "ascii" and not sys.flags.utf8_mode:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _fill_closed_streams() -> None:
    """Open nothing in the place of standard streams that the caller closed, as `>&-` and some services do.

    Python then has None in their place, prints errors to standard output, and gives the number of a closed stream to
    the next file that it opens.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing != number:
                os.dup2(nothing, number)
            if number:
                # Commands that read standard input say themselves that it is closed.
                setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115


def run() -> None:
    """Run `main` as the script `zoo-runtime`, and then end the process at once.

    A normal exit would also shut down the interpreter and ONNX Runtime. If the process labels only one picture, this
    shutdown would add about 10 % to its duration.
    """
    _use_utf8()
    _fill_closed_streams()
    code = main()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = 1
    except OSError as error:
        code = 1
        print(f"error: the output cannot be written: {error.strerror}", file=sys.stderr)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser. Only the commands among `words` get their arguments, because the others are not imported."""
    parser = argparse.ArgumentParser(prog="zoo-runtime", description="Run image classifiers exported by zoo.")
    parser.add_argument("--version", action="version", version=f"zoo-runtime {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        if name in words:
            module = import_module(f".{name.replace('-', '_')}", __name__)
            command.description = module.DESCRIPTION
            module.add_arguments(command)
            command.set_defaults(run=module.run, usage=command.error)
    return parser
