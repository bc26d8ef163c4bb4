"""Options that several commands of `zoo-runtime` share, and the conversion of their values."""

from __future__ import annotations

import argparse
from typing import Any

MODEL_HELP = "model.onnx, model.tflite or model.xml, or the folder that holds it"
THREADS_HELP = "number of threads (default: the tuned number, or one per core)"
PIXELS_HELP = "the largest picture to decode, width x height, such as 200M (default: 89 million pixels)"
FORMATS_HELP = (
    "the picture formats to read: jpeg, png, webp, gif, bmp, tiff, avif, heic, ppm, and only if asked for jpeg2000, "
    "ico, tga, dib; default adds the others (default: jpeg to ppm)"
)
PROVIDERS_HELP = "where the network runs, best first: cpu, openvino, cuda, ... (default: the tuned provider, or cpu)"

KEY_HELP = "refuse a file that the owner of this Ed25519 key did not sign: the file of the public key"


def add_key(command: argparse._ActionsContainer) -> None:
    """Add the option --require-signature to a command."""
    command.add_argument("--require-signature", metavar="PUB", help=KEY_HELP)


def add_model(command: argparse.ArgumentParser) -> None:
    """Add the argument MODEL to a command."""
    command.add_argument("model", help=MODEL_HELP)


def add_predictor_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `Predictor` to a command: threads, providers, the largest picture and the formats."""
    command.add_argument("--threads", type=threads, metavar="N", help=THREADS_HELP)
    command.add_argument("--providers", type=provider_names, metavar="P,...", help=PROVIDERS_HELP)
    command.add_argument("--max-pixels", type=pixels, metavar="N", help=PIXELS_HELP)
    command.add_argument("--formats", type=formats, metavar="F,...", help=FORMATS_HELP)


def predictor_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of `Predictor` that the user chose."""
    chosen = {"threads": options.threads, "providers": options.providers, "formats": options.formats}
    return {**chosen, **({"max_pixels": options.max_pixels} if options.max_pixels else {})}


def threads(text: str) -> int:
    """Convert the value of --threads."""
    from .._session import MAX_THREADS

    number = positive(text)
    if number > MAX_THREADS:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {MAX_THREADS}. Received: {text!r}.")
    return number


def seconds(text: str) -> float:
    """Convert a number of seconds, above 0 and at most 3600."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0 and at most 3600. Received: {text!r}.")
    return value


def provider_names(text: str) -> list[str]:
    """Convert the value of --providers."""
    from .._session import parse_providers

    try:
        return parse_providers(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive(text: str) -> int:
    """Convert a whole number of 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more. Received: {text!r}.")
    return int(text)


def pixels(text: str) -> int:
    """Convert the value of --max-pixels."""
    from .._limit import parse_pixels

    try:
        return parse_pixels(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def formats(text: str) -> tuple[str, ...]:
    """Convert the value of --formats."""
    from .._choice import parse_formats

    try:
        return parse_formats(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
