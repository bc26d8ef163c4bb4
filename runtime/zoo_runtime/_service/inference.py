"""The Open Inference Protocol (version 2, REST), which KServe, Triton, MLServer and OpenVINO Model Server speak too.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol

The input `image` has the datatype UINT8 and the shape [pictures, height, width, channels], with the pixels as the file
wants them. It may instead be BYTES of the shape [pictures]: the base64 text of picture files, which the service decodes
as it does everywhere. Tensors are JSON; the extension for binary data is not offered.
"""

from __future__ import annotations

import base64
import binascii
import io
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from .._errors import PictureError
from .._format import INPUT, OUTPUT
from .._predictor import Predictor
from .._trust import FEATURE_NORM, OUTLIER_SCORE
from .._version import __version__
from .answers import dump, refusal
from .limits import Limits, Refused
from .metrics import Metrics
from .models import Model
from .tensors import Numbers, not_levels, parsed

if TYPE_CHECKING:
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]


_AT_ONCE = 4
PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "litert": "litert_tflite", "openvino": "openvino_ir"}
"""What the protocol calls the engine and the format of a file."""


def server_metadata() -> dict[str, Any]:
    """Return the answer of the path /v2."""
    return {"name": "zoo-runtime", "version": __version__, "extensions": []}


def model_metadata(model: Model) -> dict[str, Any]:
    """Return the answer of the path /v2/models/NAME."""
    current = model.current
    info = current.alone.info
    scores = (OUTLIER_SCORE, FEATURE_NORM) if info.trust.get("outliers") else ()
    return {
        "name": model.name,
        "versions": [current.version],
        "platform": PLATFORMS[current.alone.engine],
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, *info.image.size, info.image.channels]}],
        "outputs": [
            {"name": OUTPUT, "datatype": "FP32", "shape": [-1, len(info.classes)]},
            *({"name": name, "datatype": "FP32", "shape": [-1]} for name in scores),
        ],
        "parameters": {"classes": list(info.classes), "task": info.task},
    }


def infer(model: Model, body: bytes, *, limits: Limits, alone: bool, metrics: Metrics) -> bytes:
    """Answer a request of the path /v2/models/NAME/infer.

    Args:
        model: The model. The file that answers now answers the whole request.
        body: The request, JSON.
        limits: The largest number of pictures.
        alone: Whether nothing else is being classified.
        metrics: Counts the pictures.

    Returns:
        The answer as JSON.

    Raises:
        Refused: If the request is not as the protocol says, or a picture cannot be read.
    """
    current = model.current
    predictor = current.alone if alone else current.shared
    request = _parsed(body)
    tensor = _tensor(request)
    wanted = _wanted(request, [entry["name"] for entry in model_metadata(model)["outputs"]])
    started = time.perf_counter()
    if tensor.get("datatype") == "BYTES":
        pixels = _decoded(tensor, predictor, limits, model.name, metrics)
    else:
        pixels = _pixels(tensor, predictor, limits)
    # The activations of 64 pictures at once would take more than a GB, which onnxruntime keeps for the next request.
    parts = [predictor.outputs(pixels[start : start + _AT_ONCE]) for start in range(0, len(pixels), _AT_ONCE)]
    outputs = [np.concatenate(part) for part in zip(*parts, strict=True)]
    metrics.prediction_seconds.labels(model.name).observe(time.perf_counter() - started)
    for row in range(len(pixels)):
        score = float(outputs[1][row]) if len(outputs) > 1 else None
        metrics.count(model.name, current.trust, float(outputs[0][row].max()), score)
    named = dict(zip((OUTPUT, OUTLIER_SCORE, FEATURE_NORM), outputs, strict=False))
    answer: dict[str, Any] = {"model_name": model.name, "model_version": current.version}
    if "id" in request:
        answer["id"] = request["id"]
    answer["outputs"] = [
        {"name": name, "datatype": "FP32", "shape": list(named[name].shape), "data": named[name].ravel().tolist()}
        for name in wanted
    ]
    return dump(answer)


def _bad(message: str) -> Refused:
    return Refused(400, "BadRequest", message)


def _parsed(body: bytes) -> dict[str, Any]:
    request = parsed(body)
    if not isinstance(request, dict):
        raise _bad(f"The request must be a JSON object with 'inputs'. Received: {type(request).__name__}.")
    if not isinstance(request.get("id", ""), str):
        raise _bad(f"'id' must be a string. Received: {request['id']!r:.100}.")
    return request


def _tensor(request: dict[str, Any]) -> dict[str, Any]:
    """Return the one input of a request."""
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        received = f"{len(inputs)} inputs" if isinstance(inputs, list) else type(inputs).__name__
        raise _bad(f"'inputs' must be a list with one tensor, called {INPUT!r}. Received: {received}.")
    tensor = inputs[0]
    if tensor.get("name") != INPUT:
        raise _bad(f"The input must be called {INPUT!r}. Received: {tensor.get('name')!r:.100}.")
    if tensor.get("datatype") not in ("UINT8", "BYTES"):
        raise _bad(
            f"The datatype of {INPUT!r} must be UINT8 (pixels) or BYTES (base64 text of picture files). "
            f"Received: {tensor.get('datatype')!r:.100}."
        )
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(type(side) is int and side > 0 for side in shape):
        raise _bad(f"'shape' must be a list of whole numbers above 0. Received: {shape!r:.100}.")
    if "data" not in tensor:
        hint = ""
        parameters = tensor.get("parameters")
        if isinstance(parameters, dict) and "binary_data_size" in parameters:
            hint = " This service does not offer the extension for binary data; send JSON."
        raise _bad(f"The input {INPUT!r} has no 'data'.{hint}")
    return tensor


def _wanted(request: dict[str, Any], known: list[str]) -> list[str]:
    """Return the names of the outputs to return."""
    outputs = request.get("outputs")
    if outputs is None or outputs == []:
        return known
    if not isinstance(outputs, list) or not all(isinstance(entry, dict) for entry in outputs):
        raise _bad("'outputs' must be a list of objects with 'name'.")
    names = [entry.get("name") for entry in outputs]
    for name in names:
        if name not in known:
            raise _bad(f"The outputs are {', '.join(known)}. Received: {name!r:.100}.")
    return [name for name in known if name in names]


def _check_count(count: int, limits: Limits) -> None:
    if count > limits.pictures:
        raise Refused(
            413,
            "TooManyPictures",
            f"The request has {count} pictures, but at most {limits.pictures} are allowed. Send several requests.",
        )


def _pixels(tensor: dict[str, Any], predictor: Predictor, limits: Limits) -> Pixels:
    """Return the tensor of a request as an array (pictures, height, width, channels)."""
    spec, shape = predictor.info.image, tensor["shape"]
    sides = [*spec.size, spec.channels]
    if shape[1:] != sides or len(shape) != 4:
        raise _bad(f"'shape' must be [pictures, {', '.join(map(str, sides))}]. Received: {shape!r:.100}.")
    _check_count(shape[0], limits)
    data = tensor["data"]
    if isinstance(data, Numbers):
        return data.pixels(shape)
    if isinstance(data, list) and not any(isinstance(value, list) for value in data):
        raise not_levels()
    raise _bad("'data' must be a list of numbers, flat or nested as 'shape' says.")


def _decoded(tensor: dict[str, Any], predictor: Predictor, limits: Limits, name: str, metrics: Metrics) -> Pixels:
    """Decode the pictures of a BYTES tensor."""
    data, shape = tensor["data"], tensor["shape"]
    if not isinstance(data, list) or not all(isinstance(text, str) for text in data):
        raise _bad("'data' of a BYTES input must be a flat list of base64 texts, one per picture.")
    if shape not in ([len(data)], [len(data), 1]) or not data:
        raise _bad(f"'shape' of a BYTES input must be [{len(data)}], the number of texts. Received: {shape!r:.100}.")
    _check_count(len(data), limits)
    rows = []
    for number, text in enumerate(data):
        place = f"picture {number + 1}: " if len(data) > 1 else ""
        try:
            rows.append(predictor.decode(io.BytesIO(base64.b64decode(text, validate=True))))
        except (binascii.Error, ValueError) as error:
            raise _bad(f"{place}not base64 text: {error}.") from None
        except PictureError as error:
            metrics.picture_errors.labels(name, type(error).__name__).inc()
            raise refusal(error, place) from None
    return np.stack(rows)
