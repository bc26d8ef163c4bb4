"""Defines the command `zoo-runtime` with its subcommands predict, info, check, bench and tune.

The exit code is 0 if all went well, 1 if something failed, 2 if the command line is wrong, and 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from ._errors import ZooRuntimeError
from ._version import __version__

# argparse has no public name for this type.
_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

# The parts of a self-test that `zoo-runtime info` leaves out: they are long, and say nothing to a reader.
PICTURES = ("pictures", "decoding")
MODEL_HELP = "model.onnx, or the folder that holds it"
THREADS_HELP = "number of threads (default: the tuned number, or one per core)"
PIXELS_HELP = "the largest picture to decode, width x height, such as 200M (default: 89 million pixels)"
COVERAGE_HELP = "also show the classes that the picture may be of, with this probability: 0.9, 0.95 or 0.99"
PROVIDERS_HELP = "where the network runs, best first: cpu, openvino, cuda, ... (default: the tuned provider, or cpu)"


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
    parser = _parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    options, more = parser.parse_known_args(words)
    options.words = words
    # argparse does not accept paths after an option if there are paths before it too.
    if more and hasattr(options, "paths") and not any(text.startswith("-") for text in more):
        options.paths += more
    elif more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            command: Callable[[argparse.Namespace], int] = options.run
            return command(options)
    except ZooRuntimeError as error:
        from ._limit import with_option_names

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


def run() -> None:
    """Run `main` as the script `zoo-runtime`, and then end the process at once.

    A normal exit would also shut down the interpreter and ONNX Runtime. If the process labels only one picture, this
    shutdown would add about 10 % to its duration.
    """
    _use_utf8()
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


def _predict(options: argparse.Namespace) -> int:
    from ._errors import ModelError
    from ._print import print_predictions

    try:
        return print_predictions(
            options.model,
            options.paths,
            top=options.top,
            as_json=options.json,
            coverage=options.coverage,
            **_predictor_options(options),
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModelError:
        from ._foreign import swapped

        words = swapped(options.words, options.model, options.paths)
        if words is None:
            raise
        import shlex

        print(
            f"error: {options.model!r} is not an exported file. Give the exported file first, then pictures: "
            f"`{shlex.join(['zoo-runtime', *words])}`.",
            file=sys.stderr,
        )
        return 2


def _predictor_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of `Predictor` that the user chose."""
    chosen = {"threads": options.threads, "providers": options.providers}
    return {**chosen, **({"max_pixels": options.max_pixels} if options.max_pixels else {})}


def _info(options: argparse.Namespace) -> int:
    from ._predictor import Predictor
    from ._selftest import tolerance_of

    info = Predictor(options.model).info
    if options.json:
        selftest = {key: value for key, value in info.selftest.items() if key not in PICTURES}
        shown = {key: getattr(info, key) for key in info.__dataclass_fields__}
        print(json.dumps({**shown, "image": info.image.to_json(), "selftest": selftest}, indent=2))
        return 0
    height, width = info.image.size
    names = ", ".join(info.classes[:10]) + (f", … ({len(info.classes)} classes)" if len(info.classes) > 10 else "")
    kept = f" (center {info.image.fraction:g})" if info.image.resize == "crop" else ""
    rows: dict[str, str | None] = {
        "classes": names,
        "task": info.task,
        "input": f"{height} x {width} x {info.image.channels}, {info.image.resize}{kept}, {info.image.filter}",
        **{
            key: _brief(getattr(info, key))
            for key in ("architecture", "weights", "precision", "data", "metrics", "trust", "parity", "run")
        },
    }
    tolerance = tolerance_of(info)
    if tolerance is not None:
        allowed = f"probabilities may differ by {tolerance:g} on another machine"
        if (info.precision.get("between_processors") or 0) > (tolerance or 1):
            allowed += "; processors that add int8 numbers in another way may differ more, and `check` fails there"
        rows["selftest"] = allowed
    for label, value in rows.items():
        if value:
            print(f"{label:<13} {value}")
    return 0


def _brief(value: dict[str, Any]) -> str:
    """Format the numbers and short strings of a nested dictionary on one line.

    An accuracy stands with its confidence interval, if the file has one. All other lists are left out, and so are
    strings of more than 100 characters. `zoo-runtime info --json` shows both.
    """
    from ._print import format_accuracy

    parts = []
    for key, item in value.items():
        if isinstance(item, dict):
            inner = _brief(item)
            if inner:
                parts.append(f"{key}: ({inner})")
        elif isinstance(item, float):
            interval = value.get(f"{key}_interval")
            if isinstance(interval, list) and [type(bound) for bound in interval] == [float, float]:
                parts.append(f"{key} {format_accuracy(item, interval)}")
            else:
                parts.append(f"{key} {item:.4g}")
        elif isinstance(item, (str, int)) and len(str(item)) <= 100:
            parts.append(f"{key} {item}")
    return ", ".join(parts)


def _check(options: argparse.Namespace) -> int:
    from ._predictor import Predictor
    from ._selftest import check

    result = check(Predictor(options.model))
    if options.json:
        print(json.dumps(vars(result)))
        return 0 if result.passed else 1
    pixels = "equal" if result.pixels_equal else f"differ by at most {result.pixel_difference} of 255 where sampled"
    print(f"pixels         {pixels}")
    print(f"probabilities  differ by at most {result.probability_difference:.2g} (allowed {result.tolerance:g})")
    for name, here in result.device.items():
        there = result.workshop.get(name, "unknown")
        print(f"{name:<14} {here}" + ("" if here == there else f" here, {there} where the file was exported"))
    if result.passed:
        print("passed")
    elif result.probability_difference == float("inf"):
        print("FAILED: the network returns values that are not numbers, so the file is damaged. Copy it again.")
    else:
        print("FAILED: this machine does not reproduce the probabilities measured when the file was exported")
    return 0 if result.passed else 1


def _bench(options: argparse.Namespace) -> int:
    from . import _bench as measuring

    chosen = _predictor_options(options)
    if options.compare:
        if not options.paths:
            options.usage("--compare needs two exported files, and then pictures or folders")
        other, *paths = options.paths
        result = measuring.compare(options.model, other, paths, **chosen)
        if options.json:
            print(json.dumps(result))
            return 0
        _print_left_out(result)
        print("both run with the default settings and the options given here; tuned settings are ignored")
        for key, label in (("latency", "photo to label"), ("network", "network alone")):
            row = result[key]
            low, high = row["middle_half"]
            verdict = f"the second is {row['ratio']:.2f} times as fast"
            if low <= 1 <= high:
                verdict += ", which may be chance"
            print(
                f"{label:<15} {row['first']:.2f} and {row['second']:.2f} ms; pair by pair, {verdict} "
                f"(middle half of the pairs {low:.2f} to {high:.2f})"
            )
        if not result["same_classes"]:
            print(f"{'labels':<15} not compared, because the files have different classes")
            return 0
        print(f"{'labels':<15} equal for {result['equal_labels']} of {result['pictures']} pictures")
        return 0
    result = measuring.bench(options.model, options.paths, seconds=options.seconds, **chosen)
    if options.json:
        print(json.dumps(result))
        return 0
    print(f"{result['model']}, {result['megabytes']:.1f} MB; {_pictures(result)}")
    _print_left_out(result)
    print(_settings(result["settings"]))
    print(f"{'milliseconds':<15} {'p50':>8} {'p90':>8} {'p99':>8}")
    for key, label in (("latency", "photo to label"), ("decoding", "  decoding"), ("network", "  network")):
        print(f"{label:<15} " + " ".join(f"{value:8.2f}" for value in result[key].values()))
    start, folder = result["start"], result["folder"]
    peak = "" if start["peak_megabytes"] is None else f", peak memory {start['peak_megabytes']:.0f} MB"
    print(f"{'cold start':<15} {start['seconds']:.3f} s from the start of a process to a label{peak}")
    print("network alone, pictures per second")
    for row in result["throughput"]:
        threads = f"{row['threads']} thread{'s' * (row['threads'] > 1)},"
        print(f"  {threads:<12} batch {row['batch']:<3} {row['network']:8.0f}")
    print(
        f"{folder['pictures']} pictures in a row: {folder['per_second']:.0f} per second "
        f"(decoding alone {folder['decoding_alone']:.0f}, network alone {folder['network_alone']:.0f})"
    )
    return 0


def _pictures(result: dict[str, Any]) -> str:
    used, named = result["pictures"], result["named"]
    return f"{used} pictures" + (f", evenly chosen from {named:,}" if named > used + len(result["left_out"]) else "")


def _print_left_out(result: dict[str, Any]) -> None:
    from ._limit import with_option_names
    from ._print import one_line

    for why in result["left_out"]:
        print(f"left out: {one_line(with_option_names(why))}", file=sys.stderr)


def _tune(options: argparse.Namespace) -> int:
    from . import _bench as measuring

    def progress(text: str) -> None:
        if not options.json:
            print(text, file=sys.stderr)

    result = measuring.tune(options.model, seconds=options.seconds, providers=options.providers, progress=progress)
    if options.json:
        print(json.dumps(result))
        return 0
    width = max(len(_settings(row)) for row in result["table"])
    print(f"{'network alone, milliseconds':<{width}} {'p50':>8} {'p90':>8}")
    for row in sorted(result["table"], key=lambda row: row["p50"]):
        print(f"{_settings(row):<{width}} {row['p50']:8.2f} {row['p90']:8.2f}")
    more = f"more than {measuring.WORTH:.0%} faster than the default in each of {measuring.ROUNDS} rounds"
    print(f"chosen          {_settings(result['settings'])}")
    if result["usual"]:
        print(f"why             this is the default; no other settings were {more}")
    else:
        print(f"why             {more}; among such settings, it has the fewest threads within 3 % of the fastest")
    print(f"saved in        {result['file']}")
    return 0


def _drift(options: argparse.Namespace) -> int:
    from ._drift_command import print_drift

    return print_drift(options.model, options.paths, as_json=options.json, **_predictor_options(options))


def _settings(row: dict[str, Any]) -> str:
    names = [name if isinstance(name, str) else name[0] for name in row["providers"]]
    count = row["threads"]
    threads = "default threads" if count is None else f"{count} thread{'s' * (count > 1)}"
    waits = "spinning" if row["spinning"] else "sleeping"
    return f"{', '.join(names)}, {threads}, {waits}, {'memory kept' if row['arena'] else 'memory freed'}"


def _threads(text: str) -> int:
    from ._session import MAX_THREADS

    number = _positive(text)
    if number > MAX_THREADS:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {MAX_THREADS}. Received: {text!r}.")
    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0 and at most 3600. Received: {text!r}.")
    return seconds


def _names(text: str) -> list[str]:
    from ._session import parse_providers

    try:
        return parse_providers(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more. Received: {text!r}.")
    return int(text)


def _pixels(text: str) -> int:
    from ._limit import parse_pixels

    try:
        return parse_pixels(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zoo-runtime", description="Run image classifiers exported by zoo.")
    parser.add_argument("--version", action="version", version=f"zoo-runtime {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_predict, _add_info, _add_check, _add_bench, _add_tune, _add_drift):
        add(commands)
    return parser


def _add_predict(commands: _Commands) -> None:
    command = commands.add_parser("predict", help="label pictures", description="Label pictures, one line per picture.")
    command.add_argument("model", help=MODEL_HELP)
    command.add_argument(
        "paths", nargs="+", metavar="path", help="a picture, a folder of pictures, or - for a picture on standard input"
    )
    command.add_argument(
        "--top", type=_positive, metavar="K", help="show the K likeliest classes (default: 1; with --json: all)"
    )
    command.add_argument("--coverage", type=float, metavar="C", help=COVERAGE_HELP)
    command.add_argument("--json", action="store_true", help="print one JSON object per picture")
    command.add_argument("--threads", type=_threads, metavar="N", help=THREADS_HELP)
    command.add_argument("--providers", type=_names, metavar="P,...", help=PROVIDERS_HELP)
    command.add_argument("--max-pixels", type=_pixels, metavar="N", help=PIXELS_HELP)
    command.set_defaults(run=_predict)


def _add_info(commands: _Commands) -> None:
    command = commands.add_parser(
        "info",
        help="show what the file says about itself",
        description="Show what an exported file says about itself: classes, picture size, training, test figures.",
    )
    command.add_argument("model", help=MODEL_HELP)
    command.add_argument("--json", action="store_true", help="print everything as JSON")
    command.set_defaults(run=_info)


def _add_check(commands: _Commands) -> None:
    command = commands.add_parser(
        "check",
        help="run the file's self-test on this machine",
        description="Run the file's self-test: does this machine give the same pixels and probabilities as the machine "
        "that exported the file?",
    )
    command.add_argument("model", help=MODEL_HELP)
    command.add_argument("--json", action="store_true", help="print the result as JSON")
    command.set_defaults(run=_check)


def _add_bench(commands: _Commands) -> None:
    command = commands.add_parser(
        "bench",
        help="measure speed and memory on this machine",
        description="Measure an exported file on this machine: latency, cold start, memory and throughput.",
    )
    command.add_argument("model", help=MODEL_HELP)
    command.add_argument(
        "paths", nargs="*", metavar="path", help="pictures and folders (default: two pictures inside the file)"
    )
    command.add_argument(
        "--compare", action="store_true", help="time two exported files, MODEL and the first path, against one another"
    )
    command.add_argument("--threads", type=_threads, metavar="N", help=THREADS_HELP)
    command.add_argument("--providers", type=_names, metavar="P,...", help=PROVIDERS_HELP)
    command.add_argument("--max-pixels", type=_pixels, metavar="N", help=PIXELS_HELP)
    command.add_argument(
        "--seconds", type=_seconds, default=2.0, metavar="S", help="per measurement (default: 2; ignored by --compare)"
    )
    command.add_argument("--json", action="store_true", help="print the figures as JSON")
    command.set_defaults(run=_bench, usage=command.error)


def _add_tune(commands: _Commands) -> None:
    command = commands.add_parser(
        "tune",
        help="find the settings that suit this machine",
        description="Measure threads, spinning and memory on this machine, and save the best settings beside the file.",
    )
    command.add_argument("model", help=MODEL_HELP)
    command.add_argument("--providers", type=_names, metavar="P,...", help="where the network may run (default: cpu)")
    command.add_argument(
        "--seconds", type=_seconds, default=2.0, metavar="S", help="per combination of settings (default: 2)"
    )
    command.add_argument("--json", action="store_true", help="print the table as JSON")
    command.set_defaults(run=_tune)


def _add_drift(commands: _Commands) -> None:
    command = commands.add_parser(
        "drift",
        help="compare pictures with the training pictures",
        description="Compare pictures with those that the network was trained on: brightness, sharpness, confidence "
        "and more. The file has only numbers of the training pictures.",
    )
    command.add_argument("model", help=MODEL_HELP)
    command.add_argument("paths", nargs="+", metavar="path", help="a picture, or a folder of pictures")
    command.add_argument("--json", action="store_true", help="print the figures as JSON")
    command.add_argument("--threads", type=_threads, metavar="N", help=THREADS_HELP)
    command.add_argument("--providers", type=_names, metavar="P,...", help=PROVIDERS_HELP)
    command.add_argument("--max-pixels", type=_pixels, metavar="N", help=PIXELS_HELP)
    command.set_defaults(run=_drift)


if __name__ == "__main__":
    run()
