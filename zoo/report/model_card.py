"""Renders the model card of an exported file: README.md beside it.

The front matter follows the model cards of the Hugging Face Hub. `zoo.report.model_card_limits` writes what the network
cannot do. `zoo.workflow.model_card` collects the facts and puts the card in place. This module does not compute any
figures.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from zoo.files import size_text
from zoo.report import markdown, model_card_limits
from zoo.report.exported_facts import PARTS, ExportedFacts, Figure, figures, interval_of
from zoo.report.markdown import Plain, code, escaped
from zoo.reporter import counted
from zoo_runtime.workshop import format_accuracy

# SPDX identifiers whose small letters are the Hub's identifier.
LICENCES = {
    each.lower(): each
    for each in (
        *("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "BSD-3-Clause-Clear", "CC0-1.0", "ISC", "Zlib", "MS-PL"),
        *("CC-BY-2.0", "CC-BY-2.5", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "CC-BY-NC-2.0"),
        *("CC-BY-NC-3.0", "CC-BY-NC-4.0", "CC-BY-ND-4.0", "CC-BY-NC-ND-3.0", "CC-BY-NC-ND-4.0", "CC-BY-NC-SA-2.0"),
        *("CC-BY-NC-SA-3.0", "CC-BY-NC-SA-4.0", "MPL-2.0", "EPL-1.0", "EPL-2.0", "EUPL-1.1", "EUPL-1.2", "AFL-3.0"),
        *("Artistic-2.0", "BSL-1.0", "ECL-2.0", "LPPL-1.3c", "NCSA", "OFL-1.1", "OSL-3.0", "PostgreSQL", "Unlicense"),
        "WTFPL",
    )
}
# The section of the smaller files, which changes when one is added later.
BEGIN, END = "<!-- smaller files: begin -->", "<!-- smaller files: end -->"
NO_SMALLER = "There was none beside this file when this card was written. `zoo export RUN --int8` makes one."
RESIZES = {
    "squash": "The whole picture is resized, without keeping its proportions.",
    "crop": "A rectangle is cut out of the center, and resized.",
    "pad": "The whole picture is resized with its proportions, and centered on black.",
}
HEAD = ("figure", "value", "95 % confidence", "pictures")


def render(facts: ExportedFacts, smaller: Sequence[Mapping[str, Any]] = (), others: Sequence[str] = ()) -> str:
    """Return the text of the card, with the line by which zoo recognizes it.

    Args:
        facts: What is known about the file.
        smaller: The smaller files beside it; see `smaller_section`.
        others: Sentences about files beside it that do not belong to it.
    """
    info = facts.info
    listed = figures(facts.metrics, info.task)
    values = {
        **_front(facts, listed),
        "title": facts.title,
        "purpose": _purpose(facts),
        "result": result(facts),
        "facts": _file(facts),
        "classes": info.classes,
        "data": _data(facts),
        "figures_note": _figures_note(facts),
        "figures": _figures(listed),
        **_per_class(facts),
        "compared": _compared(facts),
        "smaller": "" if facts.published or facts.kind != "float32" else Plain(smaller_section(facts, smaller, others)),
        "limits": model_card_limits.limits(facts),
        "untried": model_card_limits.untried(facts),
        "licence": _licence(facts),
        **_how_to_run(facts),
        "contract": markdown.table(("", "name", "type", "shape"), _contract(facts)),
        "pixels": _pixels(facts),
        **_made(facts),
    }
    text = markdown.render("model_card.md.jinja", values)
    return markdown.signed(re.sub(r"\n{3,}", "\n\n", text))


def digest_in(text: str) -> str:
    """Return the sha256 of the exported file that a card names; "" if it names none."""
    match = re.search(r"^\| sha256 \| `([0-9a-f]{64})` \|$", text.replace("\r\n", "\n"), re.M)
    return match[1] if match else ""


def with_smaller(text: str, section: str) -> str | None:
    """Return a card with another section about smaller files; None if the card is not ours or was edited."""
    body = markdown.body_of(text)
    if body is None or body.count(BEGIN) != 1 or body.count(END) != 1:
        return None
    before, _, rest = body.partition(BEGIN)
    _, _, after = rest.partition(END)
    return markdown.signed(f"{before}{section}{after}")


def smaller_section(facts: ExportedFacts, smaller: Sequence[Mapping[str, Any]] = (), others: Sequence[str] = ()) -> str:
    """Return the section about the smaller files beside a float32 file.

    Args:
        facts: The float32 file. Only its size and its test figures are used.
        smaller: For each smaller file of the same run: `path` (from the folder of exports), `kind`, `bytes`, `test`
            (its figures on the test pictures) and `compared` (its comparison with float32; empty if unknown).
        others: Sentences about smaller files that do not belong to this one.
    """
    rows: list[list[Any]] = []
    for each in smaller:
        compared = each["compared"]
        speed = f"{compared['milliseconds']:.2f} ms" if compared else "not recorded"
        rows.append([code(each["path"]), size_text(each["bytes"]), accuracy(each["test"]), speed])
        if compared:
            rows[-1][3] += f", float32 {compared['float32_milliseconds']:.2f} ms"
    text = NO_SMALLER
    if rows:
        own = [code(f"{facts.name}/{facts.file}"), size_text(facts.bytes), accuracy(facts.metrics.get("test", {})), ""]
        text = markdown.table(("file", "size", "on the test pictures", "time per picture"), [own, *rows], right=(1,))
        text += "\n\nTimes are medians without decoding, on the machine that made the files, both files in turn."
    notes = [str(each["compared"]["too_few"]) + "." for each in smaller if each["compared"].get("too_few")]
    lines = "".join(f"\n\n{escaped(line)}" for line in (*notes, *others))
    return f"{BEGIN}\n## Smaller files\n\n{text}{lines}\n{END}"


def accuracy(test: Mapping[str, Any]) -> str:
    """Format the accuracy of one part, or the exact match if there is one, with its interval if it has one."""
    key = "exact_match" if "exact_match" in test else "accuracy"
    if key not in test:
        return "not measured"
    interval = interval_of(test, key)
    label = key.replace("_", " ")
    if interval is None:
        return f"{label} {test[key]:.4f}"
    return f"{label} {format_accuracy(test[key], interval, test.get('pictures'))}"


def result(facts: ExportedFacts) -> str:
    """Return the result in one sentence; "" if nothing was measured."""
    if "test" in facts.metrics:
        every = ""
        if (facts.info.trust.get("unknown") or {}).get("threshold") is not None:
            every = " It counts every picture by its most likely class, also those answered as unknown."
        return f"On the test pictures: {accuracy(facts.metrics['test'])}.{every}"
    published = facts.info.metrics.get("published") or {}
    if published.get("top1") is not None:
        top5 = f", top-5 {published['top5']:.3f}" if published.get("top5") is not None else ""
        return f"Published accuracy on ImageNet: top-1 {published['top1']:.3f}{top5}. zoo has not measured it."
    return ""


def _front(facts: ExportedFacts, listed: Sequence[Figure]) -> dict[str, Any]:
    """Return the variables of the front matter."""
    info = facts.info
    names = {"accuracy": "accuracy", "macro_f1": "f1", "exact_match": "exact_match"}
    index = [
        {"type": names[each.key], "name": each.text, "value": repr(float(each.value))}
        for each in listed
        if each.part == "test" and each.key in names and each.value == each.value
    ]
    tags = ["image-classification", "onnx", "onnxruntime", "zoo", str(info.architecture.get("name", "")), facts.kind]
    licence = str(info.weights.get("licence") or "").lower()
    return {
        "name": facts.name,
        "data_name": str(info.data.get("name") or "unknown"),
        "tags": [tag for tag in tags if tag],
        "index": index,
        "licence_id": Plain(licence) if licence in LICENCES and not info.weights.get("random") else "",
    }


def _purpose(facts: ExportedFacts) -> str:
    count = len(facts.info.classes)
    if facts.info.task == "multilabel":
        what = f"says which of {count} labels a picture has; it may have several, or none"
    else:
        what = f"says which of {count} classes a picture belongs to"
    return f"This network {what}. It is a single ONNX file, made for devices without a training library."


def _file(facts: ExportedFacts) -> list[tuple[str, str]]:
    info = facts.info
    weights = info.weights
    started = "random numbers" if weights.get("random") else str(weights.get("id") or weights.get("file") or "unknown")
    kinds = {"int8": "int8, quantized", "fp16": "float32, with weights stored in 16 bits"}
    rows = [
        ("file", code(facts.file)),
        ("sha256", code(facts.sha256)),
        ("sha256 of the weights", code(facts.weights_sha256)),
        ("size", size_text(facts.bytes)),
        ("computes in", kinds.get(facts.kind, facts.kind)),
        ("task", facts.task),
        ("architecture", str(info.architecture.get("name", "unknown"))),
        ("starting weights", started),
        ("picture size", f"{info.image.size[1]} x {info.image.size[0]} pixels"),
    ]
    return rows if facts.published else [*rows, ("run", code(str(info.run["id"])))]


def _data(facts: ExportedFacts) -> Plain:
    """Return the section about the pictures."""
    data, record = facts.info.data, facts.record
    if facts.published:
        reported = facts.info.weights.get("source") or "their publisher"
        return Plain(
            f"zoo trained nothing. The weights were published by {markdown.address(str(reported))}; look there for the "
            "pictures that they were trained on."
        )
    counts = data.get("counts") or {}
    rows: list[tuple[str, str]] = [
        ("name", str(data.get("name", "unknown"))),
        ("training / validation / test", " / ".join(str(counts.get(part, "?")) for part in ("train", "val", "test"))),
        ("split", str(data.get("split", "unknown"))),
        ("digest of pictures and classes", code(str(data.get("digest", "unknown")))),
    ]
    if record is not None:
        together = record.options.get("group_by")
        rows += [("kept together by", model_card_limits.without_folders(str(together)))] if together else []
        rows.append(("unreadable pictures left out", str(len(record.data.get("left_out") or ()))))
        rows += _checked(record.data.get("check") or {})
    rows += _headers(facts.pictures)
    classes = facts.counts.get("train") or {}
    if classes:
        most, least = max(classes, key=lambda name: classes[name]), min(classes, key=lambda name: classes[name])
        spread = f"{classes[least]} ({least}) to {classes[most]} ({most})"
        if classes[least] == classes[most]:
            spread = f"{classes[most]} each"
        rows.append(("training pictures of a class", spread))
    return markdown.table(("", ""), rows)


def _checked(check: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the data check found, as rows. Its lines are left out, because they name paths."""
    near = check.get("near_duplicates") or {}
    if not check:
        return []
    return [
        (
            "near-duplicates",
            f"{counted(near.get('pictures', 0), 'picture')} in {counted(near.get('number_of_groups', 0), 'group')}",
        ),
        ("near-duplicates in different parts", str(len(check.get("across_parts") or ()))),
        ("byte-equal copies", str(check.get("exact_copies", 0))),
        ("equal pictures with different classes", str(len(check.get("contradicting") or ()))),
    ]


def _headers(pictures: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not pictures:
        return []
    sizes = [" x ".join(map(str, pictures[key])) for key in ("smallest", "median", "largest")]
    formats = ", ".join(f"{name} {count}" for name, count in pictures["formats"].items())
    part = "" if pictures["read"] == pictures["of"] else f" (of {pictures['read']} of {pictures['of']} pictures)"
    camera = "EXIF names a camera in none of them"
    if pictures["formats"] == {"array": pictures["read"]}:
        return [(f"pixels as stored{part}", f"{sizes[0]} to {sizes[2]}, median {sizes[1]}; arrays, not files")]
    if pictures["cameras"]:
        camera = f"EXIF names one in {pictures['with_camera']} of {pictures['read']}, {pictures['cameras']} different"
    return [
        (f"pixels as stored{part}", f"{sizes[0]} to {sizes[2]}, median {sizes[1]}"),
        (f"file formats{part}", formats),
        (f"cameras{part}", camera),
    ]


def _figures_note(facts: ExportedFacts) -> str:
    if "test" not in facts.metrics:
        return "zoo has measured nothing on pictures with known classes."
    note = "Measured through this file. The test pictures took no part in training, choice or calibration."
    if "cross_validation" in facts.metrics:
        note += " The figures of the cross-validation come from networks that had not seen the pictures."
    return note


def _figures(listed: Sequence[Figure]) -> Plain:
    parts = [part for part in PARTS if any(figure.part == part for figure in listed)]
    tables = []
    for part in parts:
        rows = [
            [each.text, number(each.value), bounds(each), each.pictures or ""] for each in listed if each.part == part
        ]
        head = (f"{PARTS[part]} pictures", *HEAD[1:])
        tables.append(markdown.table(head, rows, right=(1, 2, 3)))
    return Plain("\n\n".join(tables))


def number(value: float) -> str:
    """Format a figure with four decimals."""
    return f"{value:.4f}"


def bounds(figure: Figure) -> str:
    """Format the confidence interval of a figure."""
    return "" if figure.interval is None else f"{figure.interval[0]:.4f} to {figure.interval[1]:.4f}"


def _per_class(facts: ExportedFacts) -> dict[str, Any]:
    measured = (facts.metrics.get("test") or {}).get("per_class") or {}
    rows = []
    for name, row in measured.items():
        cells: list[Any] = [code(name)]
        for key in ("precision", "recall", "f1"):
            interval = row.get(f"{key}_interval")
            extra = f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
            cells.append(f"{row[key]:.4f}{extra}")
        rows.append([*cells, row["pictures"]])
    head = ("class", "precision", "recall", "F1", "test pictures")
    note = "Precision: how often the name is right when it is given. Recall: how many pictures of the class get it."
    return {
        "per_class": markdown.table(head, rows, right=(1, 2, 3, 4)) if rows else "",
        "per_class_count": len(rows),
        "per_class_note": note,
    }


def _compared(facts: ExportedFacts) -> Plain | str:
    compared = facts.compared
    if not compared:
        return ""
    before = {key.removeprefix("float32_"): value for key, value in compared.items() if key.startswith("float32_")}
    rows = [
        ("on the test pictures", accuracy(compared), accuracy(before)),
        ("size", size_text(compared["bytes"]), size_text(compared["float32_bytes"])),
        ("time per picture", f"{compared['milliseconds']:.2f} ms", f"{compared['float32_milliseconds']:.2f} ms"),
    ]
    text = markdown.table(("", facts.kind, "float32"), rows, right=(1, 2))
    return Plain(f"{text}\n\nTimes are medians without decoding, on the machine that made the files, both in turn.")


def _licence(facts: ExportedFacts) -> list[str]:
    info = facts.info
    weights, architecture = info.weights, info.architecture
    lines: list[str] = []
    if weights.get("random"):
        lines.append(
            Plain("Weights: training started from random numbers, so that no earlier licence applies to them.")
        )
    elif weights.get("licence"):
        source = markdown.address(str(weights.get("source") or "unknown"))
        lines.append(
            Plain(f"Starting weights {code(str(weights['id']))}: {escaped(weights['licence'])}, from {source}.")
        )
        if weights.get("commercial_use") is False:
            lines.append(Plain("That licence forbids commercial use, of this file as well."))
    else:
        lines.append(Plain("Starting weights: their licence is unknown, because the file came from the user."))
    source = markdown.address(str(architecture.get("source") or "unknown"))
    lines.append(Plain(f"Architecture: {escaped(architecture.get('licence', 'unknown'))}, {source}."))
    if not facts.published:
        lines.append(
            Plain("Pictures: zoo does not know their licence. Whoever publishes this file must be allowed to use them.")
        )
    return lines


def _how_to_run(facts: ExportedFacts) -> dict[str, str]:
    file = facts.file
    program = [
        "from zoo_runtime import Predictor",
        "",
        f'predictor = Predictor("{file}")',
        'result = predictor("photo.jpg")',
        "print(result.labels)  # every label with a probability of 0.5 or more"
        if facts.info.task == "multilabel"
        else "print(result.label, result.confidence)",
        "print(result.top(3))",
    ]
    trust = facts.info.trust
    if (trust.get("unknown") or {}).get("threshold") is not None:
        program.append("print(result.unknown)  # True if the answer is not sure enough; result.label is then None")
    if trust.get("sets"):
        program.append("print(result.labels_at(0.95))  # the classes that it may be")
    if trust.get("outliers"):
        program.append("print(result.outlier_score, result.outlier)  # is it unlike the training pictures?")
    commands = [
        f"zoo-runtime check {file}               # does this device give the same answers?",
        f"zoo-runtime predict {file} photo.jpg",
        f"zoo-runtime info {file}                # what the file says about itself",
    ]
    return {"install": "pip install ./runtime", "commands": "\n".join(commands), "program": "\n".join(program)}


def _contract(facts: ExportedFacts) -> list[list[Any]]:
    info = facts.info
    height, width = info.image.size
    channels = info.image.channels
    color = "RGB" if channels == 3 else "gray"
    total = "" if info.task == "multilabel" else "; each row sums to 1"
    rows: list[list[Any]] = [
        ["input", code("image"), "uint8", f"batch, {height}, {width}, {channels} ({color}, 0 to 255)"],
        ["output", code("probabilities"), "float32", f"batch, {len(info.classes)}{total}"],
    ]
    if info.trust.get("outliers"):
        rows += [["output", code(name), "float32", "batch"] for name in ("outlier_score", "feature_norm")]
    return rows


def _pixels(facts: ExportedFacts) -> str:
    image = facts.info.image
    levels = "" if image.levels == 16 else f" 16-bit pictures are read with {image.levels} bits."
    fraction = f" It takes {image.fraction:g} of each side." if image.resize == "crop" else ""
    return (
        f"{RESIZES[image.resize]}{fraction} Pillow's {image.filter} filter with antialiasing does it.{levels} "
        "Pixels go in as they are: all normalization is inside the graph. zoo_runtime does all of this, and turns "
        "pictures by their EXIF orientation."
    )


def _made(facts: ExportedFacts) -> dict[str, Any]:
    info, record = facts.info, facts.record
    versions = info.run.get("versions") or {}
    made = (
        f"Made by zoo {versions.get('finezoo', 'of unknown version')}, {info.run.get('created', 'at an unknown time')}"
    )
    made += f", with seed {info.run['seed']}." if "seed" in info.run else "."
    parity = info.parity
    if parity.get("pictures"):
        made += (
            f" On {counted(parity['pictures'], 'picture')}, its logits differ from those of Keras by at most "
            f"{parity['logits_difference']:.1e} of the largest one."
        )
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    plugins = ", ".join(info.run.get("plugins") or ())
    phases = []
    if record is not None:
        phases = [
            f"{phase['name']} ({phase['train']}, {counted(phase['epochs_run'], 'epoch')})"
            for phase in record.phases
            if phase.get("epochs_run")
        ]
        made += f" Phases: {', '.join(phases)}." if phases else ""
        made += " Folders are left out of the command." if any(map(_folded, record.command)) else ""
    return {
        "made": made,
        "command": shlex.join(map(_word, command_of(record))) if record is not None else "",
        "export_command": shlex.join(facts.command) if facts.command else "",
        "versions": f"Versions: {listed}." + (f" Plugins: {plugins}." if plugins else ""),
    }


def command_of(record: Any) -> list[str]:
    """Return the words of the command that trained a run, with `zoo` as the first one."""
    words = list(record.command)
    return ["zoo", *words[1:]] if words else []


def _folded(word: str) -> bool:
    return _word(word) != word


def _word(word: str) -> str:
    """Return a word of a command without the folders of an absolute path, which say something about the user."""
    option, sign, value = word.partition("=") if word.startswith("-") else ("", "", word)
    for kind in (PurePosixPath, PureWindowsPath):
        path = kind(value)
        if path.is_absolute() and path.name:
            return f"{option}{sign}{path.name}"
    return word
