"""The command `zoo-runtime`: predict, info, check, bench, tune. Exit 0 done, 1 something failed, 2 wrong usage."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import warnings
from collections.abc import Sequence

from ._errors import PictureError, PictureNotFound, ZooRuntimeError
from ._version import __version__

PROVIDERS_HELP = "where the network runs, best first: cpu, openvino, cuda, ... (default: what was tuned, or cpu)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    # File names need not be valid text; printing one must not end the run.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # Pillow's remarks on odd but readable files would stand between the answers.
    warnings.filterwarnings("ignore", module="PIL")
    parser = _parser()
    options, more = parser.parse_known_args(arguments)
    # argparse takes no paths behind an option that stands between them.
    if more and hasattr(options, "paths") and not any(text.startswith("-") for text in more):
        options.paths += more
    elif more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return options.run(options)
    except ZooRuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # `zoo-runtime predict ... | head` closes the pipe; there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is not None:
            raise
        print(f"error: the answer cannot be written: {error.strerror}", file=sys.stderr)
        return 1


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def run() -> None:
    """The script `zoo-runtime`: `main`, and then the end of the process at once.

    Taking the interpreter and onnxruntime apart takes a tenth of the time to a label, and nothing is left to be done.
    """
    code = main()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = 1
    except OSError as error:
        code = 1
        print(f"error: the answer cannot be written: {error.strerror}", file=sys.stderr)
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def predict(
    model: str,
    paths: Sequence[str],
    *,
    top: int | None = None,
    as_json: bool = False,
    threads: int | None = None,
    providers: Sequence[str] | None = None,
) -> int:
    """Predict files and folders and print a line a picture.

    Args:
        model: Path of an exported file.
        paths: Pictures, and folders whose pictures are meant.
        top: How many classes to show, likeliest first; None shows the likeliest alone, or in JSON all.
        as_json: Print one JSON object a picture instead.
        threads: See `Predictor`.
        providers: See `Predictor`.

    Returns:
        0, or 1 if any picture could not be predicted.
    """
    from ._predictor import Predictor, expand

    failed = False

    def refuse(path: str, error: PictureError) -> None:
        nonlocal failed
        failed = True
        kind = type(error).__name__
        if as_json:
            print(json.dumps({"path": path, "error": kind, "message": str(error)}), flush=True)
        else:
            print(_line(f"{path}: {kind}: {str(error).removeprefix(path + ': ')}"), file=sys.stderr)

    predictor = Predictor(model, threads=threads, providers=providers)
    listed = list(expand(paths, refuse))
    for path, result in zip(listed, predictor.predict_each(listed), strict=True):
        if isinstance(result, PictureError):
            refuse(path, result)
        elif as_json:
            line = {
                "path": path,
                "label": result.label,
                "confidence": result.confidence,
                "probabilities": dict(result.top(top)) if top else result.probabilities,
            }
            if predictor.info.task == "multilabel":
                line["labels"] = list(result.labels)
            print(json.dumps(line), flush=True)
        else:
            # Of several labels, those that hold; --top shows the likeliest whether they hold or not.
            count = top or (len(result.labels) if predictor.info.task == "multilabel" else 1)
            shown = "  ".join(f"{label} {p:.4f}" for label, p in result.top(count))
            print(_line(f"{path}: {shown or 'no class'}"), flush=True)
    if not listed and not failed:
        raise PictureNotFound("there is no picture in " + ", ".join(map(repr, paths)) + ".")
    return 1 if failed else 0


def _line(text: str) -> str:
    """One line, whatever a file's name has in it: a line break would be taken for the next picture's."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _predict(options: argparse.Namespace) -> int:
    chosen = {"threads": options.threads, "providers": options.providers}
    return predict(options.model, options.paths, top=options.top, as_json=options.json, **chosen)


def _info(options: argparse.Namespace) -> int:
    from ._predictor import Predictor
    from ._selftest import tolerance_of

    info = Predictor(options.model).info
    if options.json:
        selftest = {key: value for key, value in info.selftest.items() if key != "pictures"}
        shown = {key: getattr(info, key) for key in info.__dataclass_fields__}
        print(json.dumps({**shown, "image": info.image.to_json(), "selftest": selftest}, indent=2))
        return 0
    height, width = info.image.size
    names = ", ".join(info.classes[:10]) + (f", … ({len(info.classes)} in all)" if len(info.classes) > 10 else "")
    kept = f" (centre {info.image.fraction:g})" if info.image.resize == "crop" else ""
    rows = {
        "classes": names,
        "task": info.task,
        "input": f"{height} x {width} x {info.image.channels}, {info.image.resize}{kept}, {info.image.filter}",
        **{
            key: _brief(getattr(info, key))
            for key in ("architecture", "weights", "precision", "data", "metrics", "parity", "run")
        },
    }
    tolerance = tolerance_of(info)
    rows["selftest"] = None if tolerance is None else f"probabilities may differ by {tolerance:g} on another machine"
    if (info.precision.get("between_processors") or 0) > (tolerance or 1):
        rows["selftest"] += "; they may by more where int8 is added up in another way, and `check` fails there"
    for label, value in rows.items():
        if value:
            print(f"{label:<13} {value}")
    return 0


def _brief(value: dict) -> str:
    """Scalars of a nested dictionary on one line; lists and long texts stay in `--json`."""
    parts = []
    for key, item in value.items():
        if isinstance(item, dict):
            inner = _brief(item)
            if inner:
                parts.append(f"{key}: ({inner})")
        elif isinstance(item, float):
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
    pixels = "equal" if result.pixels_equal else f"differ, by at most {result.pixel_difference} of 255 where sampled"
    print(f"pixels         {pixels}")
    print(f"probabilities  differ by {result.probability_difference:.2g} at most (allowed {result.tolerance:g})")
    for name, here in result.device.items():
        there = result.workshop.get(name, "unknown")
        print(f"{name:<14} {here}" + ("" if here == there else f" here, {there} in the workshop"))
    if result.passed:
        print("passed")
    elif result.probability_difference == float("inf"):
        print("FAILED: the network gives values that are not numbers: the file is damaged")
    else:
        print("FAILED: this machine does not give what the workshop measured")
    return 0 if result.passed else 1


def _bench(options: argparse.Namespace) -> int:
    from . import _bench as measuring

    chosen = {"threads": options.threads, "providers": options.providers}
    if options.compare:
        if not options.paths:
            options.usage("--compare takes two exported files, and then pictures or folders")
        other, *paths = options.paths
        result = measuring.compare(options.model, other, paths, **chosen)
        if options.json:
            print(json.dumps(result))
            return 0
        _tell_left_out(result)
        print("settings are the usual ones for both, whatever was tuned, but for those given here")
        for key, label in (("latency", "photo to label"), ("network", "network alone")):
            row = result[key]
            low, high = row["middle_half"]
            told = f"the second is {row['ratio']:.2f} times as fast"
            if low <= 1 <= high:
                told += ", which may be chance"
            print(
                f"{label:<15} {row['first']:.2f} and {row['second']:.2f} ms; pair by pair {told} "
                f"(middle half of the pairs {low:.2f} to {high:.2f})"
            )
        if not result["same_classes"]:
            print(f"{'labels':<15} of other classes: they cannot be compared")
            return 0
        print(f"{'labels':<15} equal for {result['equal_labels']} of {result['pictures']} pictures")
        return 0
    result = measuring.bench(options.model, options.paths, seconds=options.seconds, **chosen)
    if options.json:
        print(json.dumps(result))
        return 0
    print(f"{result['model']}, {result['megabytes']:.1f} MB; {_pictures(result)}")
    _tell_left_out(result)
    print(_settings(result["settings"]))
    print(f"{'milliseconds':<15} {'p50':>8} {'p90':>8} {'p99':>8}")
    for key, label in (("latency", "photo to label"), ("decoding", "  decoding"), ("network", "  network")):
        print(f"{label:<15} " + " ".join(f"{value:8.2f}" for value in result[key].values()))
    start, folder = result["start"], result["folder"]
    peak = "" if start["peak_megabytes"] is None else f", peak memory {start['peak_megabytes']:.0f} MB"
    print(f"{'cold start':<15} {start['seconds']:.3f} s from the start of a process to a label{peak}")
    print("network alone, pictures a second")
    for row in result["throughput"]:
        print(f"  {row['threads']:>3} threads, batch {row['batch']:<3} {row['network']:8.0f}")
    print(
        f"{folder['pictures']} pictures in a row: {folder['per_second']:.0f} a second "
        f"(decoding alone {folder['decoding_alone']:.0f}, network alone {folder['network_alone']:.0f})"
    )
    return 0


def _pictures(result: dict) -> str:
    taken, named = result["pictures"], result["named"]
    return f"{taken} pictures" + (f" of {named:,}, from all over" if named > taken + len(result["left_out"]) else "")


def _tell_left_out(result: dict) -> None:
    for why in result["left_out"]:
        print(f"left out: {_line(why)}", file=sys.stderr)


def _tune(options: argparse.Namespace) -> int:
    from . import _bench as measuring

    def say(text: str) -> None:
        if not options.json:
            print(text, file=sys.stderr)

    result = measuring.tune(options.model, seconds=options.seconds, providers=options.providers, said=say)
    if options.json:
        print(json.dumps(result))
        return 0
    width = max(len(_settings(row)) for row in result["table"])
    print(f"{'network alone, milliseconds':<{width}} {'p50':>8} {'p90':>8}")
    for row in sorted(result["table"], key=lambda row: row["p50"]):
        print(f"{_settings(row):<{width}} {row['p50']:8.2f} {row['p90']:8.2f}")
    why = "nothing else was quicker in every round" if result["usual"] else "fewest threads within 3 % of the quickest"
    print(f"chosen          {_settings(result['settings'])} ({why})")
    print(f"kept in         {result['file']}")
    return 0


def _settings(row: dict) -> str:
    names = [name if isinstance(name, str) else name[0] for name in row["providers"]]
    count = row["threads"]
    threads = "onnxruntime's threads" if count is None else f"{count} thread{'s' * (count > 1)}"
    waits = "spinning" if row["spinning"] else "sleeping"
    return f"{', '.join(names)}, {threads}, {waits}, {'memory kept' if row['arena'] else 'memory given back'}"


def _threads(text: str) -> int:
    from ._session import MAX_THREADS

    number = _positive(text)
    if number > MAX_THREADS:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_THREADS}. Received: {text}.")
    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"must be seconds, above 0 and at most 3600. Received: {text!r}.")
    return seconds


def provider_names(text: str) -> list[str]:
    """The names of "openvino,cpu".

    Raises:
        ValueError: The installed onnxruntime has no such provider.
    """
    from ._session import full_providers

    names = [name.strip() for name in text.split(",")]
    full_providers(names)
    return names


def _names(text: str) -> list[str]:
    try:
        return provider_names(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number, 1 or more. Received: {text!r}.")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="zoo-runtime", description="Run image classifiers exported by zoo.")
    parser.add_argument("--version", action="version", version=f"zoo-runtime {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("predict", help="label pictures", description="Label pictures, a line each.")
    one.add_argument("model", help="model.onnx, or the folder that holds it")
    one.add_argument("paths", nargs="+", metavar="path", help="a picture, or a folder of pictures")
    one.add_argument("--top", type=_positive, metavar="K", help="show the K likeliest classes (default 1, --json all)")
    one.add_argument("--json", action="store_true", help="print one JSON object a picture")
    one.add_argument("--threads", type=_threads, metavar="N", help="threads to use (default: tuned, or one a core)")
    one.add_argument("--providers", type=_names, metavar="P,...", help=PROVIDERS_HELP)
    one.set_defaults(run=_predict)

    two = commands.add_parser("info", help="what the file says of itself")
    two.add_argument("model")
    two.add_argument("--json", action="store_true", help="print everything as JSON")
    two.set_defaults(run=_info)

    three = commands.add_parser("check", help="replay the file's self-test on this machine")
    three.add_argument("model")
    three.add_argument("--json", action="store_true", help="print the result as JSON")
    three.set_defaults(run=_check)

    four = commands.add_parser(
        "bench",
        help="measure speed and memory on this machine",
        description="Measure an exported file on this machine: latency, cold start, memory, throughput.",
    )
    four.add_argument("model", help="model.onnx, or the folder that holds it")
    four.add_argument("paths", nargs="*", metavar="path", help="pictures and folders (default: the file's own two)")
    four.add_argument(
        "--compare", action="store_true", help="MODEL and the first path are two files: ratios pair by pair"
    )
    four.add_argument("--threads", type=_threads, metavar="N", help="threads to use (default: tuned, or one a core)")
    four.add_argument("--providers", type=_names, metavar="P,...", help=PROVIDERS_HELP)
    four.add_argument(
        "--seconds", type=_seconds, default=2.0, metavar="S", help="of each measurement (default 2; not of --compare)"
    )
    four.add_argument("--json", action="store_true", help="print the figures as JSON")
    four.set_defaults(run=_bench, usage=four.error)

    five = commands.add_parser(
        "tune",
        help="find the settings that suit this machine",
        description="Measure threads, spinning and memory on this machine and keep the best beside the file.",
    )
    five.add_argument("model", help="model.onnx, or the folder that holds it")
    five.add_argument("--providers", type=_names, metavar="P,...", help="where it may run (default: cpu)")
    five.add_argument("--seconds", type=_seconds, default=2.0, metavar="S", help="of each setting (default 2)")
    five.add_argument("--json", action="store_true", help="print the table as JSON")
    five.set_defaults(run=_tune)
    return parser


if __name__ == "__main__":
    run()
