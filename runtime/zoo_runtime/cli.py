"""The command `zoo-runtime`: predict, info, check. Exit 0 done, 1 something failed, 2 wrong usage."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence

from ._errors import PictureError, PictureNotFound, ZooRuntimeError
from ._version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    # File names need not be valid text; printing one must not end the run.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # Pillow's remarks on odd but readable files would stand between the answers.
    warnings.filterwarnings("ignore", module="PIL")
    options = _parser().parse_args(arguments)
    try:
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


def predict(
    model: str, paths: Sequence[str], *, top: int | None = None, as_json: bool = False, threads: int | None = None
) -> int:
    """Predict files and folders and print a line a picture.

    Args:
        model: Path of an exported file.
        paths: Pictures, and folders whose pictures are meant.
        top: How many classes to show, likeliest first; None shows the likeliest alone, or in JSON all.
        as_json: Print one JSON object a picture instead.
        threads: See `Predictor`.

    Returns:
        0, or 1 if any picture could not be predicted.
    """
    from ._predictor import Predictor

    predictor = Predictor(model, threads=threads)
    failed = False
    listed: list[str] = []

    def pictures() -> Iterator[str]:
        for path in _expand(paths):
            listed.append(path)
            yield path

    # A short batch size keeps the answers coming while a folder is read.
    for index, result in enumerate(predictor.predict_each(pictures())):
        path = listed[index]
        if isinstance(result, PictureError):
            failed = True
            kind = type(result).__name__
            if as_json:
                print(json.dumps({"path": path, "error": kind, "message": str(result)}), flush=True)
            else:
                print(f"{path}: {kind}: {str(result).removeprefix(path + ': ')}", file=sys.stderr)
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
            print(f"{path}: {shown or 'no class'}", flush=True)
    if not listed:
        raise PictureNotFound("there is no picture in " + ", ".join(map(repr, paths)) + ".")
    return 1 if failed else 0


def _expand(paths: Iterable[str]) -> Iterator[str]:
    from ._predictor import list_pictures

    for path in paths:
        if os.path.isdir(path):
            yield from list_pictures(path)
        else:
            yield path


def _predict(options: argparse.Namespace) -> int:
    return predict(options.model, options.paths, top=options.top, as_json=options.json, threads=options.threads)


def _info(options: argparse.Namespace) -> int:
    from ._predictor import Predictor

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
    print("passed" if result.passed else "FAILED: this machine does not give what the workshop measured")
    return 0 if result.passed else 1


def _threads(text: str) -> int:
    from ._predictor import MAX_THREADS

    number = _positive(text)
    if number > MAX_THREADS:
        raise argparse.ArgumentTypeError(f"must be at most {MAX_THREADS}. Received: {text}.")
    return number


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
    one.add_argument("--threads", type=_threads, metavar="N", help="threads to use (default: one a core)")
    one.set_defaults(run=_predict)

    two = commands.add_parser("info", help="what the file says of itself")
    two.add_argument("model")
    two.add_argument("--json", action="store_true", help="print everything as JSON")
    two.set_defaults(run=_info)

    three = commands.add_parser("check", help="replay the file's self-test on this machine")
    three.add_argument("model")
    three.add_argument("--json", action="store_true", help="print the result as JSON")
    three.set_defaults(run=_check)
    return parser


if __name__ == "__main__":
    sys.exit(main())
