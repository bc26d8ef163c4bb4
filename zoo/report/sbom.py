"""Builds the bill of materials of an exported file: sbom.json, in CycloneDX 1.6 (https://cyclonedx.org).

The model is the component that the file describes. Its pretrained weights are its ancestor, the packages that made it
are components with the scope "excluded", and those that a device needs have the scope "required". cyclonedx-python-lib
has no model cards, so this module writes the JSON itself, and a test validates it with the schema of that library.

The same file and the same run give the same bytes: the serial number comes from the digest of the file, and the time
is that of the run.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

from zoo.report.exported_facts import ExportedFacts, class_figures, figures
from zoo.report.model_card import LICENCES
from zoo.report.model_card_limits import limits, untried

# What runtime/pyproject.toml requires; a test compares them.
RUNTIME = {"numpy": ">=1.24", "onnxruntime": ">=1.27", "pillow": ">=13.0"}
# What the formats of other engines need besides.
ENGINES = {"litert": {"ai-edge-litert": ">=2.0"}, "openvino": {"openvino": ">=2025.0"}}
RUNTIME_PACKAGE = "finezoo-runtime"
MADE_BY = "zoo"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def render(facts: ExportedFacts) -> str:
    """Return the text of sbom.json."""
    return json.dumps(build(facts), indent=2, ensure_ascii=True) + "\n"


def is_ours(text: str) -> bool:
    """Return whether zoo wrote a bill of materials, and nobody has edited it since."""
    try:
        values = json.loads(text)
        return bool(values["serialNumber"] == _serial(values))
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def digest_in(text: str) -> str:
    """Return the sha256 of the exported file that a bill of materials names; "" if it names none."""
    try:
        (digest,) = [each["content"] for each in json.loads(text)["metadata"]["component"]["hashes"]]
        return str(digest)
    except (ValueError, KeyError, TypeError):
        return ""


def build(facts: ExportedFacts) -> dict[str, Any]:
    """Return the content of sbom.json."""
    info = facts.info
    weights = _weights(facts)
    versions = dict(info.run.get("versions") or {})
    tested = info.selftest.get("versions") or {}
    runtime = _runtime(versions, tested, ENGINES.get(facts.engine, {}))
    made = [each for each in map(_library, versions, versions.values()) if each is not None]
    needed = {each["bom-ref"] for each in runtime}
    components = [
        *([weights] if weights else []),
        *runtime,
        *(each for each in made if each["bom-ref"] not in needed),
    ]
    main = next((each["bom-ref"] for each in made if each["name"] == "finezoo"), None)
    dependencies: list[dict[str, Any]] = [
        {
            "ref": "model",
            "dependsOn": [runtime[0]["bom-ref"], *([weights["bom-ref"]] if weights else [])],
        },
        {"ref": runtime[0]["bom-ref"], "dependsOn": [each["bom-ref"] for each in runtime[1:]]},
    ]
    if main:
        others = sorted(each["bom-ref"] for each in made if each["bom-ref"] != main)
        dependencies.append({"ref": main, "dependsOn": others})
    described = {each["ref"] for each in dependencies}
    dependencies += [{"ref": each["bom-ref"]} for each in components if each["bom-ref"] not in described]
    values: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            **_time(str(info.run.get("created") or "")),
            "tools": {"components": [_tool(versions.get("finezoo"))]},
            "component": _model(facts),
        },
        "components": components,
        "dependencies": dependencies,
    }
    return {**values, "serialNumber": _serial(values)}


def _serial(values: Mapping[str, Any]) -> str:
    """Return the serial number, which stands for the whole content. It also shows whether somebody has edited it."""
    content = {key: value for key, value in values.items() if key != "serialNumber"}
    return uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(content, sort_keys=True)).urn


def _time(created: str) -> dict[str, str]:
    return {"timestamp": created} if TIME.fullmatch(created) else {}


def _tool(version: str | None) -> dict[str, Any]:
    return {"type": "application", "name": MADE_BY, **({"version": version} if version else {})}


def _library(name: str, version: str) -> dict[str, Any] | None:
    """Return the component of a Python package, with the scope of a package that only makes the file."""
    if name == "python":
        return {
            "type": "platform",
            "bom-ref": f"python@{version}",
            "name": "python",
            "version": version,
            "scope": "excluded",
        }
    purl = _purl(name, version)
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "scope": "excluded",
        "purl": purl,
    }


def _purl(name: str, version: str | None) -> str:
    normal = re.sub(r"[-_.]+", "-", name).lower()
    # A local version such as 1.0+cu12 must be encoded.
    return f"pkg:pypi/{normal}" + (f"@{version.replace('+', '%2B')}" if version else "")


def _runtime(versions: Mapping[str, str], tested: Mapping[str, str], engine: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the packages that a device needs: the runtime, then what it depends on.

    Their versions are those with which the self-test was recorded.

    Args:
        versions: The versions of packages in the run.
        tested: The versions with which the self-test was recorded.
        engine: What the engine of the file needs besides, with the lowest versions.
    """
    needed = {**RUNTIME, **engine}
    listed: list[tuple[str, str | None, str | None]] = [(RUNTIME_PACKAGE, versions.get("finezoo"), None)]
    listed += [(name, tested.get(name) or versions.get(name), lowest) for name, lowest in needed.items()]
    components = []
    for name, version, lowest in listed:
        purl = _purl(name, version)
        component: dict[str, Any] = {"type": "library", "bom-ref": purl, "name": name}
        if version:
            component["version"] = version
        component |= {"scope": "required", "purl": purl}
        if lowest:
            component["properties"] = [{"name": "zoo:required-version", "value": lowest}]
        components.append(component)
    return components


def _licences(name: object) -> list[dict[str, Any]]:
    text = str(name or "").strip()
    known = LICENCES.get(text.lower())
    if not text:
        return []
    return [{"license": {"id": known} if known else {"name": text}}]


def _weights(facts: ExportedFacts) -> dict[str, Any] | None:
    """Return the pretrained weights as a component; None if training started from random numbers."""
    weights = facts.info.weights
    if weights.get("random") or not weights:
        return None
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": "weights",
        "name": str(weights.get("id") or weights.get("file") or "weights"),
        "description": "The pretrained weights that this model started from, and of which it is made.",
        "scope": "required",
    }
    if re.fullmatch("[0-9a-f]{64}", str(weights.get("sha256"))):
        component["hashes"] = [{"alg": "SHA-256", "content": weights["sha256"]}]
    if weights.get("licence"):
        component["licenses"] = _licences(weights["licence"])
    references = [("distribution", weights.get("url")), ("website", weights.get("source"))]
    component["externalReferences"] = [
        {"type": kind, "url": str(url)} for kind, url in references if re.match(r"https?://\S+\Z", str(url))
    ]
    component["properties"] = [{"name": "zoo:file", "value": str(weights.get("file") or "unknown")}]
    more = {"zoo:origin": weights.get("origin"), "zoo:package": weights.get("package")}
    more["zoo:commercial-use"] = "forbidden" if weights.get("commercial_use") is False else None
    component["properties"] += [{"name": name, "value": str(value)} for name, value in more.items() if value]
    return component


def _model(facts: ExportedFacts) -> dict[str, Any]:
    info = facts.info
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": facts.name,
        "version": str(info.run.get("id") or info.weights.get("id") or facts.sha256[:12]),
        "description": facts.title,
        "hashes": [{"alg": "SHA-256", "content": facts.sha256}],
    }
    licences = [] if info.weights.get("random") else _licences(info.weights.get("licence"))
    if licences:
        component["licenses"] = licences
    ancestor = _weights(facts)
    if ancestor:
        component["pedigree"] = {
            "ancestors": [{**ancestor, "bom-ref": "weights-ancestor"}],
            "notes": "Trained further on the pictures of the model card."
            if not facts.published
            else "Converted without training.",
        }
    component["modelCard"] = _card(facts)
    component["properties"] = [
        {"name": "zoo:file", "value": facts.file},
        {"name": "zoo:bytes", "value": str(facts.bytes)},
        {"name": "zoo:number-format", "value": facts.numbers},
        *({"name": f"zoo:sha256:{name}", "value": digest} for name, digest in facts.companions.items()),
        {"name": "zoo:architecture-licence", "value": str(info.architecture.get("licence", "unknown"))},
    ]
    return component


def _card(facts: ExportedFacts) -> dict[str, Any]:
    info = facts.info
    height, width = info.image.size
    color = "RGB" if info.image.channels == 3 else "gray"
    parameters: dict[str, Any] = {
        "approach": {"type": "supervised"},
        "task": facts.task,
        "architectureFamily": family(facts),
        "modelArchitecture": str(info.architecture.get("name", "unknown")),
        "datasets": [] if facts.published else [_dataset(facts)],
        "inputs": [{"format": f"uint8 [batch, {height}, {width}, {info.image.channels}], {color}, 0 to 255"}],
        "outputs": [{"format": f"float32 [batch, {len(info.classes)}], probabilities of the classes"}],
    }
    if info.trust.get("outliers"):
        parameters["outputs"].append({"format": "float32 [batch], outlier score"})
        parameters["outputs"].append({"format": "float32 [batch], feature norm, the length of the pooled features"})
    measured = [*figures(facts.metrics, info.task), *class_figures(facts)]
    metrics = []
    for each in measured:
        metric: dict[str, Any] = {"type": each.key, "value": repr(float(each.value)), "slice": each.part}
        if each.slice:
            metric["slice"] += f", class {each.slice}"
        if each.interval is not None:
            low, high = each.interval
            metric["confidenceInterval"] = {"lowerBound": f"{low:.6g}", "upperBound": f"{high:.6g}"}
        metrics.append(metric)
    published = info.metrics.get("published") or {}
    metrics += [
        {"type": f"{key}_accuracy", "value": repr(float(value)), "slice": "ImageNet, as published"}
        for key, value in published.items()
        if value is not None
    ]
    return {
        "modelParameters": parameters,
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "considerations": {
            "useCases": [f"Telling which of {len(info.classes)} classes a picture shows."],
            "technicalLimitations": [str(line) for line in (*limits(facts), *untried(facts))],
        },
        "properties": [{"name": "zoo:classes", "value": json.dumps(list(info.classes), ensure_ascii=False)}],
    }


def family(facts: ExportedFacts) -> str:
    """Return the family of the architecture: the plugin that provides it, or else the first part of its name."""
    name = str(facts.info.architecture.get("name", "unknown"))
    plugins = [str(text).partition(" ")[0] for text in facts.info.run.get("plugins") or ()]
    fitting = [plugin for plugin in plugins if plugin and name.startswith(plugin)]
    return max(fitting, key=len) if fitting else re.split(r"[_\d]*_", name)[0] or name


def _dataset(facts: ExportedFacts) -> dict[str, Any]:
    data = facts.info.data
    counts = data.get("counts") or {}
    properties = [
        ("sha256 of pictures and classes", data.get("digest")),
        ("split", data.get("split")),
        *((f"{part} pictures", counts[part]) for part in ("train", "val", "test") if part in counts),
    ]
    return {
        "type": "dataset",
        "name": str(data.get("name") or "unknown"),
        "contents": {
            "properties": [
                {"name": f"zoo:{name}", "value": str(value)} for name, value in properties if value is not None
            ]
        },
        "classification": "unknown: zoo does not know the licence of the pictures, nor what they show",
    }
