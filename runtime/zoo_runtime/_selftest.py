"""Creates and runs the self-test of an exported file.

The file contains pictures, and the pixels and probabilities that the exporting machine computed for them. On the
device, the self-test decodes the pictures, runs the network on them, and compares the results with the stored ones.

The metadata entry `zoo.selftest` of an exported file is

    {"versions": {name: version}, "tolerance": 1e-3 or more, "pictures": [
        {"jpeg": base64, "sha256": of the decoded pixels, "sample": {"step": [rows, columns], "pixels": base64},
         "probabilities": [...], "outlier_score": if the file has one}]}

Files of later versions also have "decoding": more pictures, of other shapes and modes, each with "picture" (the base64
of a PNG or JPEG), "sha256" and "sample". They are only decoded, and their pixels are compared.

The sample contains every `rows`-th row and every `columns`-th column of the decoded pixels. It shows how much two
decoders differ.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ._decode import decode
from ._engine import ONNXRUNTIME, engine_named
from ._errors import CorruptModel
from ._format import ModelInfo
from ._predictor import Predictor

if TYPE_CHECKING:
    import numpy.typing as npt

TOLERANCE = 1e-3
SAMPLES = 32
DECODING_SAMPLES = 6


@dataclass(frozen=True)
class CheckResult:
    """Holds the result of the self-test, which compares this machine with the machine that exported the file.

    Args:
        passed: Whether `probability_difference` is at most `tolerance`. Differences between pixels do not matter.
        pixels_equal: Whether the decoded pixels of all pictures of the self-test are equal on the two machines.
        pixel_difference: The largest difference between the two machines in a sampled pixel value, in 0..255.
        probability_difference: The largest difference between the two machines in a probability or an outlier score. It
            is infinity if one of them is NaN.
        tolerance: The largest `probability_difference` with which the self-test passes, in 0..1.
        workshop: The package versions and the processor type of the machine that exported the file; see `versions`.
        device: The package versions and the processor type of this machine.
    """

    passed: bool
    pixels_equal: bool
    pixel_difference: int
    probability_difference: float
    tolerance: float
    workshop: dict[str, str]
    device: dict[str, str]


def versions(engine: str = ONNXRUNTIME.name) -> dict[str, str]:
    """Return the processor type, and the versions of the packages on which pixels and probabilities depend.

    Args:
        engine: The engine that runs the file: "onnxruntime", "litert" or "openvino".

    Returns:
        A dictionary that maps "pillow", "libjpeg", "numpy" and the engine to their versions, and "machine" to the
        processor type, such as "x86_64". Where it is installed, the dictionary also has "pillow-heif".
    """
    # These are imported here, as in the functions below, so that the first label of a process does not wait for them.
    import platform

    import PIL
    from PIL import features

    found = {
        "pillow": PIL.__version__,
        "libjpeg": str(features.version("libjpeg_turbo") or features.version("jpg")),
        engine: engine_named(engine).version() or "unknown",
        "numpy": np.__version__,
        "machine": platform.machine(),
    }
    heif = _heif_version()
    return {**found, "pillow-heif": heif} if heif else found


@functools.cache
def _heif_version() -> str | None:
    """Return the version of pillow-heif, or None if it is not installed. One search per process is enough."""
    from importlib import metadata

    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version("pillow-heif")
    return None


def record(
    predictor: Predictor, jpegs: list[bytes], *, pictures: Sequence[bytes] = (), tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """Create the self-test of an exported file: decode pictures, run the network, and record the results.

    Args:
        predictor: Runs the exported file.
        jpegs: The pictures that the network classifies, as the bytes of JPEG files.
        pictures: More pictures, as the bytes of PNG or JPEG files. Only their pixels are recorded.
        tolerance: The largest difference of a probability, in 0..1, with which the self-test passes on another machine.

    Returns:
        The value of the metadata entry `zoo.selftest`, a dictionary that `json.dumps` accepts.

    Raises:
        PictureError: If a picture cannot be decoded.
    """
    import base64

    classified: list[dict[str, Any]] = []
    for jpeg in jpegs:
        pixels = predictor.decode(jpeg)
        outputs = predictor.outputs(pixels[None])
        probabilities = [float(p) for p in outputs[0][0]]
        entry = {"jpeg": base64.b64encode(jpeg).decode(), **_recorded(pixels, SAMPLES), "probabilities": probabilities}
        if len(outputs) > 1:
            entry["outlier_score"] = float(outputs[1][0])
        classified.append(entry)
    recorded = {"versions": versions(predictor.engine), "tolerance": tolerance, "pictures": classified}
    if pictures:
        recorded["decoding"] = [
            {
                "picture": base64.b64encode(picture).decode(),
                **_recorded(predictor.decode(picture), DECODING_SAMPLES),
            }
            for picture in pictures
        ]
    return recorded


def _recorded(pixels: npt.NDArray[np.uint8], samples: int) -> dict[str, Any]:
    """Return the digest of pixels, and a sample of about `samples` rows and columns."""
    import base64
    import hashlib

    step = [max(1, side // samples) for side in pixels.shape[:2]]
    sample = base64.b64encode(pixels[:: step[0], :: step[1]].tobytes()).decode()
    return {
        "sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
        "sample": {"step": step, "pixels": sample},
    }


def tolerance_of(info: ModelInfo) -> float | None:
    """Return the tolerance of a file's self-test, or None if the file has no self-test.

    The tolerance is the largest difference of a probability, in 0..1, with which the self-test passes.

    Args:
        info: The metadata of the file.

    Raises:
        CorruptModel: If the tolerance is not a number.
    """
    if not info.selftest.get("pictures"):
        return None
    try:
        return float(info.selftest.get("tolerance", TOLERANCE))
    except (TypeError, ValueError) as error:
        raise CorruptModel(f"the file's self-test cannot be read ({error}). Export the file again.") from None


def check(predictor: Predictor) -> CheckResult:
    """Run the self-test of an exported file on this machine.

    Args:
        predictor: Runs the exported file.

    Returns:
        The differences from the machine that exported the file, and whether the self-test passed.

    Raises:
        CorruptModel: If the file has no self-test, or the self-test is damaged.
        PictureError: If this machine cannot decode the pictures of the self-test.
    """
    selftest = predictor.info.selftest
    tolerance = tolerance_of(predictor.info)
    if tolerance is None:
        raise CorruptModel("the file has no self-test. Export it again to add one.")
    pixel_difference, probability_difference = 0, 0.0
    try:
        workshop = dict(selftest.get("versions", {}))
        for picture in selftest["pictures"]:
            expected = np.array(picture["probabilities"], float)
            pixels, apart = _compared(predictor, picture["jpeg"], picture)
            outputs = predictor.outputs(pixels[None])
            row = outputs[0][0]
            if row.shape != expected.shape:
                raise ValueError("its size does not match the network")
            if len(outputs) > 1 and "outlier_score" in picture:
                row = np.append(row, outputs[1][0])
                expected = np.append(expected, float(picture["outlier_score"]))
            pixel_difference = max(pixel_difference, apart)
            difference = float(abs(row - expected).max())
            # A NaN must never pass.
            probability_difference = max(probability_difference, difference if difference == difference else np.inf)
        for picture in selftest.get("decoding", ()):
            pixel_difference = max(pixel_difference, _compared(predictor, picture["picture"], picture)[1])
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptModel(f"the file's self-test cannot be read ({error}). Export the file again.") from None
    return CheckResult(
        passed=probability_difference <= tolerance,
        pixels_equal=pixel_difference == 0,
        pixel_difference=pixel_difference,
        probability_difference=probability_difference,
        tolerance=tolerance,
        workshop=workshop,
        device=versions(predictor.engine),
    )


def _compared(predictor: Predictor, picture: str, recorded: dict[str, Any]) -> tuple[npt.NDArray[np.uint8], int]:
    """Decode a picture of the self-test, and compare its pixels with the recorded ones.

    Args:
        predictor: Runs the exported file.
        picture: The base64 of the file.
        recorded: The digest and the sample that the exporting machine recorded.

    Returns:
        The pixels, and their largest difference in 0..255. It is 1 if pixels differ, but none of the sample does.

    Raises:
        ValueError: If the sample has another size, or the base64 is damaged.
    """
    import base64
    import hashlib

    rows, columns = recorded["sample"]["step"]
    sample = np.frombuffer(base64.b64decode(recorded["sample"]["pixels"]), np.uint8).astype(int)
    # What the predictor may read, such as JPEG alone, is no part of the test.
    pixels = decode(base64.b64decode(picture), predictor.info.image)
    here = pixels[::rows, ::columns].ravel().astype(int)
    if here.shape != sample.shape:
        raise ValueError("its size does not match the network")
    if hashlib.sha256(pixels.tobytes()).hexdigest() == recorded["sha256"]:
        return pixels, 0
    return pixels, max(1, int(abs(here - sample).max()))
