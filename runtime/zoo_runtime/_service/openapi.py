"""The description of the service in the form of OpenAPI 3.1, for the path /openapi.json.

It is written by hand: the tests compare it with what the service answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .._version import __version__

_NUMBER = {"type": "number"}
_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}
_TEXTS = {"type": "array", "items": _TEXT}


def _object(required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **(optional or {})},
        "additionalProperties": False,
    }


def _own_schemas() -> dict[str, Any]:
    """Return the schemas of the answers of our own paths."""
    share = {"type": "number", "minimum": 0, "maximum": 1}
    return {
        "Prediction": _object(
            {
                "model": _TEXT,
                "version": _TEXT,
                "label": {"type": ["string", "null"], "description": "The likeliest class; null if unknown."},
                "confidence": share,
                "probabilities": {"type": "object", "additionalProperties": share},
            },
            {
                "labels": {**_TEXTS, "description": "Multi-label networks: the classes from 0.5 on."},
                "unknown": {**_FLAG, "description": "Whether the confidence is too low for a label."},
                "outlier_score": {"type": "number", "minimum": 0, "maximum": 2},
                "outlier": {**_FLAG, "description": "Whether the picture is unlike the training pictures."},
                "sets": {"type": "object", "additionalProperties": _TEXTS},
            },
        ),
        "Models": _object(
            {
                "models": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
                "limits": _object({"body": {"type": "integer"}, "seconds": _NUMBER}),
            }
        ),
        "Model": _object(
            {
                "name": _TEXT,
                "version": _TEXT,
                "classes": _TEXTS,
                "task": {"enum": ["binary", "multiclass", "multilabel"]},
                "size": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
                "channels": {"enum": [1, 3]},
                "architecture": {"type": ["string", "null"]},
                "unknown_below": {"type": ["number", "null"]},
                "outlier_above": {"type": ["number", "null"]},
                "coverages": {"type": "array", "items": _NUMBER},
                "opened_at": _NUMBER,
                "problem": {"type": ["string", "null"], "description": "Why a newer file on the disk is not used."},
            }
        ),
        "Error": _object({"error": _TEXT, "message": _TEXT}),
    }


def _protocol_schemas() -> dict[str, Any]:
    """Return the schemas of the Open Inference Protocol."""
    shape = {"type": "array", "items": {"type": "integer"}}
    tensor = {"name": _TEXT, "datatype": {"enum": ["UINT8", "FP32"]}, "shape": shape}
    return {
        "ProtocolError": _object({"error": _TEXT}),
        "Server": _object({"name": _TEXT, "version": _TEXT, "extensions": _TEXTS}),
        "ModelMetadata": _object(
            {
                "name": _TEXT,
                "versions": _TEXTS,
                "platform": _TEXT,
                "inputs": {"type": "array", "items": _object(tensor)},
                "outputs": {"type": "array", "items": _object(tensor)},
                "parameters": _object({"classes": _TEXTS, "task": _TEXT}),
            }
        ),
        "InferenceRequest": {
            "type": "object",
            "required": ["inputs"],
            "properties": {
                "id": _TEXT,
                "inputs": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["name", "shape", "datatype", "data"],
                        "properties": {
                            "name": {"const": "image"},
                            "shape": shape,
                            "datatype": {"enum": ["UINT8", "BYTES"]},
                            "data": {"type": "array"},
                        },
                    },
                },
                "outputs": {
                    "type": "array",
                    "items": {"type": "object", "required": ["name"], "properties": {"name": _TEXT}},
                },
            },
        },
        "InferenceResponse": _object(
            {
                "model_name": _TEXT,
                "model_version": _TEXT,
                "outputs": {
                    "type": "array",
                    "items": _object({**tensor, "data": {"type": "array", "items": _NUMBER}}),
                },
            },
            {"id": _TEXT},
        ),
        "Live": _object({"live": _FLAG}),
        "Ready": _object({"ready": _FLAG}),
        "ModelReady": _object({"name": _TEXT, "ready": _FLAG}),
    }


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


_REASONS = {
    "400": "The request is not understood.",
    "401": "The token is missing or wrong.",
    "403": "The page of another origin asks.",
    "404": "There is no such model.",
    "408": "The request arrived too slowly.",
    "413": "The request or the picture is too large.",
    "415": "This is no picture, or of a kind that cannot be read.",
    "421": "The request names a host that is not this machine.",
    "422": "The picture is damaged.",
    "500": "The service has a fault.",
    "503": "The service is busy or stopping; the header Retry-After says when to ask again.",
}


def _operation(summary: str, answer: str, codes: Sequence[str], error: str, **more: Any) -> dict[str, Any]:
    """Return the description of one method of a path."""
    responses: dict[str, Any] = {"200": {"description": "The answer.", "content": _json(answer)}}
    for code in (*codes, "401", "421", "503"):
        responses[code] = {"description": _REASONS[code], "content": _json(error)}
        if code == "503":
            responses[code]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
    return {"summary": summary, "responses": dict(sorted(responses.items())), **more}


def document(models: Sequence[str], *, secured: bool) -> dict[str, Any]:
    """Return the description.

    Args:
        models: The names of the models.
        secured: Whether clients must send a token.
    """
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string", "enum": list(models)}}
    options = [
        {
            "name": "top",
            "in": "query",
            "schema": {"type": "integer", "minimum": 1},
            "description": "Likeliest classes.",
        },
        {"name": "coverage", "in": "query", "schema": _NUMBER, "description": "Also return the label set: 0.95."},
    ]
    binary: dict[str, Any] = {"schema": {}}
    form = {"type": "object", "properties": {"picture": {"type": "string", "contentMediaType": "image/*"}}}
    picture = {
        "required": True,
        "content": {
            "image/*": binary,
            "application/octet-stream": binary,
            "multipart/form-data": {"schema": form},
        },
    }
    picture_codes = ("400", "403", "404", "408", "413", "415", "422", "500")
    tensors = {"required": True, "content": _json("InferenceRequest")}
    paths: dict[str, Any] = {
        "/predict/{name}": _operation("Classify a picture.", "Prediction", picture_codes, "Error", requestBody=picture),
        "/v2/models/{name}/infer": _operation(
            "Classify pictures.", "InferenceResponse", picture_codes, "ProtocolError", requestBody=tensors
        ),
        "/v2/models/{name}": _operation("Describe a model.", "ModelMetadata", ("404",), "ProtocolError"),
        "/v2/models/{name}/ready": _operation("Is a model ready?", "ModelReady", ("404",), "ProtocolError"),
        "/v2": _operation("Describe the service.", "Server", (), "ProtocolError"),
        "/v2/health/live": _operation("Is the service there?", "Live", (), "ProtocolError"),
        "/v2/health/ready": _operation("Is the service ready?", "Ready", (), "ProtocolError"),
        "/models": _operation("List the models.", "Models", (), "Error"),
    }
    described: dict[str, Any] = {}
    for path, operation in paths.items():
        method = "post" if "requestBody" in operation else "get"
        parameters = ([name] if "{name}" in path else []) + (options if path.startswith("/predict") else [])
        described[path] = {method: {**operation, "parameters": parameters}}
    shortest = {**paths["/predict/{name}"], "summary": "Classify a picture with the only model.", "parameters": options}
    described["/predict"] = {"post": shortest}
    figures = {"200": {"description": "Figures for Prometheus.", "content": {"text/plain": {"schema": _TEXT}}}}
    described["/metrics"] = {"get": {"summary": "Figures of the service.", "responses": figures}}
    components: dict[str, Any] = {"schemas": {**_own_schemas(), **_protocol_schemas()}}
    if secured:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "zoo-runtime serve", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": described,
        "components": components,
        **({"security": [{"token": []}]} if secured else {}),
    }
