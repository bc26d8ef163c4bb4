"""The proof on the device: replay the file's own pictures and compare with what the workshop saw.

`zoo.selftest` of an exported file is
    {"versions": {name: version}, "tolerance": 1e-3 or more, "pictures": [
        {"jpeg": base64, "sha256": of the decoded pixels, "sample": {"step": [rows, columns], "pixels": base64},
         "probabilities": [...]}]}
The sample is every `step`-th row and column of the decoded pixels, to say how far apart two decoders are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ._errors import CorruptModel
from ._format import ModelInfo
from ._predictor import Predictor

TOLERANCE = 1e-3
SAMPLES = 32


@dataclass(frozen=True)
class CheckResult:
    """Outcome of the self-test on this machine.

    Args:
        passed: Whether every probability is within the tolerance.
        pixels_equal: Whether every decoded pixel is the workshop's.
        pixel_difference: Greatest difference of the sampled pixels, in levels of 255.
        probability_difference: Greatest difference of a probability, in 0..1.
        tolerance: The greatest that passes.
        workshop: Versions where the file was made.
        device: Versions here.
    """

    passed: bool
    pixels_equal: bool
    pixel_difference: int
    probability_difference: float
    tolerance: float
    workshop: dict[str, str]
    device: dict[str, str]


def versions() -> dict[str, str]:
    """Versions of what decides pixels and probabilities here."""
    # These imports, and those below, take time that one label from the start of a process should not have to wait for.
    import platform

    import onnxruntime
    import PIL
    from PIL import features

    return {
        "pillow": PIL.__version__,
        "libjpeg": str(features.version("libjpeg_turbo") or features.version("jpg")),
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "machine": platform.machine(),
    }


def record(predictor: Predictor, jpegs: list[bytes], *, tolerance: float = TOLERANCE) -> dict[str, Any]:
    """Make the value of `zoo.selftest` from pictures: what this machine decodes and computes for them.

    Args:
        predictor: The exported file.
        jpegs: The pictures, as files.
        tolerance: How far probabilities may be apart on another machine, in 0..1.
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
    """How far probabilities may be apart on another machine, as the file says; None where it has no self-test.

    Raises:
        CorruptModel: What it says cannot be read.
    """
    if not info.selftest.get("pictures"):
        return None
    try:
        return float(info.selftest.get("tolerance", TOLERANCE))
    except (TypeError, ValueError) as error:
        raise CorruptModel(f"the file's self-test cannot be read: {error}") from None


def check(predictor: Predictor) -> CheckResult:
    """Replay the file's self-test on this machine.

    Raises:
        CorruptModel: The file has no self-test, or one that cannot be read.
        PictureError: This machine cannot decode the self-test's pictures.
    """
    import base64
    import hashlib

    selftest = predictor.info.selftest
    tolerance = tolerance_of(predictor.info)
    if tolerance is None:
        raise CorruptModel("the file has no self-test")
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
                raise ValueError("it is of another size than the network")
            pixel_difference = max(pixel_difference, int(abs(here - sample).max()))
            difference = float(abs(row - expected).max())
            # A NaN is never within the tolerance.
            probability_difference = max(probability_difference, difference if difference == difference else np.inf)
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptModel(f"the file's self-test cannot be read: {error}") from None
    return CheckResult(
        passed=probability_difference <= tolerance,
        pixels_equal=equal,
        pixel_difference=pixel_difference,
        probability_difference=probability_difference,
        tolerance=tolerance,
        workshop=workshop,
        device=versions(),
    )
