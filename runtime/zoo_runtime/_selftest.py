"""Creates and runs the self-test of an exported file.

The file contains pictures, and the pixels and probabilities that the exporting machine computed for them. On the
device, the self-test decodes the pictures, runs the network on them, and compares the results with the stored ones.

The metadata entry `zoo.selftest` of an exported file is

    {"versions": {name: version}, "tolerance": 1e-3 or more, "pictures": [
        {"jpeg": base64, "sha256": of the decoded pixels, "sample": {"step": [rows, columns], "pixels": base64},
         "probabilities": [...]}]}

The sample contains every `rows`-th row and every `columns`-th column of the decoded pixels. It shows how much two
decoders differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ._errors import CorruptModel
from ._format import ModelInfo
from ._onnxruntime import version as onnxruntime_version
from ._predictor import Predictor

TOLERANCE = 1e-3
SAMPLES = 32


@dataclass(frozen=True)
class CheckResult:
    """Holds the result of the self-test, which compares this machine with the machine that exported the file.

    Args:
        passed: Whether `probability_difference` is at most `tolerance`. Differences between pixels do not matter.
        pixels_equal: Whether the decoded pixels of all pictures are equal on the two machines.
        pixel_difference: The largest difference between the two machines in a sampled pixel value, in 0..255.
        probability_difference: The largest difference between the two machines in a probability, in 0..1. It is
            infinity if a probability is NaN.
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


def versions() -> dict[str, str]:
    """Return the processor type, and the versions of the packages on which pixels and probabilities depend.

    Returns:
        A dictionary that maps "pillow", "libjpeg", "onnxruntime" and "numpy" to their versions, and "machine" to the
        processor type, such as "x86_64".
    """
    # These are imported here, as in the functions below, so that the first label of a process does not wait for them.
    import platform

    import PIL
    from PIL import features

    return {
        "pillow": PIL.__version__,
        "libjpeg": str(features.version("libjpeg_turbo") or features.version("jpg")),
        "onnxruntime": onnxruntime_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
    }


def record(predictor: Predictor, jpegs: list[bytes], *, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Create the self-test of an exported file: decode pictures, run the network, and record the results.

    Args:
        predictor: Runs the exported file.
        jpegs: The pictures, as the bytes of JPEG files.
        tolerance: The largest difference of a probability, in 0..1, with which the self-test passes on another machine.

    Returns:
        The value of the metadata entry `zoo.selftest`, a dictionary that `json.dumps` accepts.

    Raises:
        PictureError: If a picture cannot be decoded.
    """
    import base64
    import hashlib

    pictures = []
    for jpeg in jpegs:
        pixels = predictor.decode(jpeg)
        step = [max(1, side // SAMPLES) for side in pixels.shape[:2]]
        pictures.append(
            {
                "jpeg": base64.b64encode(jpeg).decode(),
                "sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
                "sample": {
                    "step": step,
                    "pixels": base64.b64encode(pixels[:: step[0], :: step[1]].tobytes()).decode(),
                },
                "probabilities": [float(p) for p in predictor.probabilities(pixels[None])[0]],
            }
        )
    return {"versions": versions(), "tolerance": tolerance, "pictures": pictures}


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
    import base64
    import hashlib

    selftest = predictor.info.selftest
    tolerance = tolerance_of(predictor.info)
    if tolerance is None:
        raise CorruptModel("the file has no self-test. Export it again to add one.")
    equal, pixel_difference, probability_difference = True, 0, 0.0
    try:
        workshop = dict(selftest.get("versions", {}))
        for picture in selftest["pictures"]:
            jpeg, digest = base64.b64decode(picture["jpeg"]), picture["sha256"]
            rows, columns = picture["sample"]["step"]
            sample = np.frombuffer(base64.b64decode(picture["sample"]["pixels"]), np.uint8).astype(int)
            expected = np.array(picture["probabilities"], float)
            pixels = predictor.decode(jpeg)
            equal &= hashlib.sha256(pixels.tobytes()).hexdigest() == digest
            here = pixels[::rows, ::columns].ravel().astype(int)
            row = predictor.probabilities(pixels[None])[0]
            if here.shape != sample.shape or row.shape != expected.shape:
                raise ValueError("its size does not match the network")
            pixel_difference = max(pixel_difference, int(abs(here - sample).max()))
            difference = float(abs(row - expected).max())
            # A NaN must never pass.
            probability_difference = max(probability_difference, difference if difference == difference else np.inf)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptModel(f"the file's self-test cannot be read ({error}). Export the file again.") from None
    return CheckResult(
        passed=probability_difference <= tolerance,
        pixels_equal=equal,
        pixel_difference=pixel_difference,
        probability_difference=probability_difference,
        tolerance=tolerance,
        workshop=workshop,
        device=versions(),
    )
