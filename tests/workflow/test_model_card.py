"""The model card and the bill of materials beside an exported file: their figures, and when they are written."""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
from pathlib import Path

import onnx
import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from zoo.report import markdown, model_card, sbom
from zoo.workflow import model_card as workflow
from zoo_runtime import Predictor

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def front_matter(text: str) -> dict:
    _, front, _ = text.split("---\n", 2)
    return yaml.safe_load(front)


def tables(text: str) -> dict[str, list[list[str]]]:
    """Return the rows of all tables by their first cell, without code marks."""
    found: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        if line.startswith("| "):
            cells = [cell.strip().strip("`") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            found.setdefault(cells[0], []).append(cells[1:])
    return found


def assert_agrees(folder: Path) -> tuple[str, dict]:
    """Check that card and bill of materials describe the file beside them, and return both."""
    text, bill = (folder / "README.md").read_text("utf-8"), json.loads((folder / "sbom.json").read_text("utf-8"))
    digest = sha256(folder / "model.onnx")
    assert markdown.is_ours(text) and model_card.digest_in(text) == digest
    assert bill["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert sbom.is_ours((folder / "sbom.json").read_text("utf-8"))
    info = Predictor(folder / "model.onnx").info
    assert [row[:1] for row in tables(text)["run"]] == [[info.run["id"]]]
    assert tables(text)["picture size"] == [[f"{info.image.size[1]} x {info.image.size[0]} pixels"]]
    assert_valid(folder / "sbom.json")
    return text, bill


def assert_valid(path: Path) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(path.read_text("utf-8")) is None
    bill = json.loads(path.read_text("utf-8"))
    references = [each["bom-ref"] for each in bill["components"]] + ["model"]
    assert len(set(references)) == len(references)
    described = {each["ref"]: each.get("dependsOn", []) for each in bill["dependencies"]}
    assert set(described) == set(references)
    assert {name for names in described.values() for name in names} <= set(references)


@pytest.fixture
def export(finished, tmp_path, monkeypatch):
    """A copy of a finished run and of its export, in the current folder: (run, folder of the export)."""
    monkeypatch.chdir(tmp_path)
    run, exported, _ = finished
    shutil.copytree(run, tmp_path / "runs" / run.name)
    shutil.copytree(exported / "shapes", tmp_path / "exported" / "shapes")
    return tmp_path / "runs" / run.name, tmp_path / "exported" / "shapes"


def test_the_card_has_the_figures_of_the_run(finished):
    run, exported, _ = finished
    text, _ = assert_agrees(exported / "shapes")
    metrics = json.loads((run / "metrics.json").read_text())
    record = json.loads((run / "run.json").read_text())
    test, rows = metrics["test"], tables(text)
    parts = [metrics["test"], metrics["validation"]]
    low_high = [" to ".join(f"{bound:.4f}" for bound in part["accuracy_interval"]) for part in parts]
    assert [row[:2] for row in rows["accuracy"]] == [
        [f"{part['accuracy']:.4f}", bounds] for part, bounds in zip(parts, low_high, strict=True)
    ]
    assert [row[0] for row in rows["macro F1"]] == [f"{part['macro_f1']:.4f}" for part in parts]
    for name, figures in test["per_class"].items():
        (row,) = rows[name]
        assert [float(cell.split()[0]) for cell in row[:3]] == pytest.approx(
            [figures[key] for key in ("precision", "recall", "f1")], abs=5e-5
        )
        assert int(row[3]) == figures["pictures"]
    assert rows["training / validation / test"] == [["48 / 12 / 12"]]
    assert rows["digest of pictures and classes"] == [[record["data"]["digest"]]]
    assert rows["pixels as stored"] == [["80 x 60 to 80 x 60, median 80 x 60"]]
    assert rows["file formats"] == [["JPEG 72"]]
    low, high = test["accuracy_interval"]
    assert f"between {low:.2f} and {high:.2f}" in text and "Fewer than 20 test pictures: `bars (4)`" in text
    assert "with seed 0, and one test part" in text and "People: " in text and "Safety: " in text


def test_the_card_says_how_it_was_made_without_naming_folders(finished, photos):
    run, exported, _ = finished
    text, bill = assert_agrees(exported / "shapes")
    assert "zoo finetune mobilenetv2_035 --data photos --size 32" in text
    assert f"zoo export {run.name} --name shapes\n" in text or f"zoo export {run.name}\n" in text
    for content in (text, json.dumps(bill)):
        assert str(photos.parent) not in content and str(exported.parent) not in content
    assert "pip install ./runtime" in text and "zoo-runtime predict model.onnx" in text
    program = re.search(r"```python\n(.*?)```", text, re.S)[1]
    picture = next((photos / "discs").iterdir())
    program = program.replace("model.onnx", str(exported / "shapes" / "model.onnx")).replace("photo.jpg", str(picture))
    exec(compile(program, "card", "exec"), {})


def test_the_front_matter_is_that_of_the_hub(finished):
    run, exported, _ = finished
    front = front_matter((exported / "shapes" / "README.md").read_text("utf-8"))
    test = json.loads((run / "metrics.json").read_text())["test"]
    assert front["library_name"] == "onnx" and front["pipeline_tag"] == "image-classification"
    # Training started from random numbers, so that there is no licence to name.
    assert "license" not in front and front["metrics"] == ["accuracy", "f1"]
    (entry,) = front["model-index"]
    (result,) = entry["results"]
    assert entry["name"] == "shapes" and result["dataset"]["name"] == "photos"
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        "accuracy": test["accuracy"],
        "f1": test["macro_f1"],
    }


def test_the_bill_of_materials_has_figures_and_packages(finished):
    run, exported, _ = finished
    _, bill = assert_agrees(exported / "shapes")
    metrics = json.loads((run / "metrics.json").read_text())
    record = json.loads((run / "run.json").read_text())
    card = bill["metadata"]["component"]["modelCard"]
    listed = {(each["type"], each["slice"]): each for each in card["quantitativeAnalysis"]["performanceMetrics"]}
    for part in ("test", "validation"):
        each = listed["accuracy", part]
        interval = each["confidenceInterval"]
        assert float(each["value"]) == metrics[part]["accuracy"]
        bounds = [float(interval["lowerBound"]), float(interval["upperBound"])]
        assert bounds == pytest.approx(metrics[part]["accuracy_interval"], rel=1e-5)
    for name, row in metrics["test"]["per_class"].items():
        assert float(listed["recall", f"test, class {name}"]["value"]) == row["recall"]
    assert card["modelParameters"]["architectureFamily"] == "mobilenetv2"
    (data,) = card["modelParameters"]["datasets"]
    assert {"name": "zoo:sha256 of pictures and classes", "value": record["data"]["digest"]} in data["contents"][
        "properties"
    ]
    versions = {each["name"]: each["version"] for each in bill["components"] if each["name"] != "finezoo-runtime"}
    assert versions == record["versions"]
    needed = [each for each in bill["components"] if each["scope"] == "required"]
    assert [each["name"] for each in needed] == ["finezoo-runtime", "numpy", "onnxruntime", "pillow"]
    assert needed[1]["purl"] == f"pkg:pypi/numpy@{record['versions']['numpy']}"
    requirements = re.findall(
        r'^    "(\w+)(>=[\d.]+)",$', (REPOSITORY / "runtime" / "pyproject.toml").read_text("utf-8"), re.M
    )
    assert dict(requirements) == sbom.RUNTIME


def without_digests(text: str) -> str:
    """Return a text without what depends on the bytes of the exported file, which differ between two exports."""
    text = re.sub(r"[0-9a-f]{64}|urn:uuid:[-0-9a-f]{36}", "#", text)
    return re.sub(r'("zoo:bytes",\s+"value": )"\d+"', r"\1#", text)


@pytest.mark.slow
def test_the_same_run_gives_the_same_texts_and_files_that_are_added_later_are_named(zoo, export):
    run, folder = export
    before = {name: (folder / name).read_bytes() for name in ("README.md", "sbom.json")}
    ran = zoo("export", run, "--name", "shapes", "--fp16")
    assert ran.code == 0, ran.err
    text, _ = assert_agrees(folder)
    small, bill = assert_agrees(folder.parent / "shapes-fp16")
    assert (folder / "sbom.json").read_bytes() == before["sbom.json"]
    figures = json.loads((run / "fp16.json").read_text())
    (row,) = tables(text)["shapes-fp16/model.onnx"]
    assert row[0] == f"{figures['bytes'] / 1e3:.0f} kB" and f"accuracy {figures['accuracy']:.2f} (" in row[1]
    assert row[2] == f"{figures['milliseconds']:.2f} ms, float32 {figures['float32_milliseconds']:.2f} ms"
    assert tables(small)["computes in"] == [["float32, with weights stored in 16 bits"]]
    assert tables(small)["accuracy"][0][0] == f"{figures['accuracy']:.4f}" and "--fp16" in small
    assert f"{figures['float32_milliseconds']:.2f} ms" in tables(small)["time per picture"][0][1]
    assert bill["metadata"]["component"]["name"] == "shapes-fp16"
    # The float32 file is exported again; what is beside it stays on its card.
    assert zoo("export", run, "--name", "shapes").code == 0
    again, _ = assert_agrees(folder)
    assert without_digests(again) == without_digests(text)
    assert without_digests((folder / "sbom.json").read_text()) == without_digests(before["sbom.json"].decode())
    # Without the smaller file, the card is the first one.
    section = model_card.smaller_section(workflow.describe(folder / "model.onnx"))
    assert model_card.with_smaller(text, section) == before["README.md"].decode("utf-8")


def test_another_size_has_a_card_of_its_own(zoo, export):
    run, folder = export
    before = (folder / "README.md").read_bytes()
    assert zoo("export", run, "--size", "40x48", "--allow-chance").code == 0
    text, bill = assert_agrees(folder.parent / "shapes-40x48")
    assert "batch, 40, 48, 3" in text and "--size 40x48" in text and (folder / "README.md").read_bytes() == before
    accuracy = Predictor(folder.parent / "shapes-40x48").info.metrics["test"]["accuracy"]
    assert tables(text)["accuracy"][0][0] == f"{accuracy:.4f}"
    assert bill["metadata"]["component"]["modelCard"]["modelParameters"]["inputs"][0]["format"].startswith(
        "uint8 [batch, 40, 48, 3]"
    )


@pytest.mark.slow
def test_texts_of_the_user_stay_and_a_new_run_replaces_those_of_zoo(zoo, export, tmp_path):
    run, folder = export
    other = tmp_path / "runs" / "other"
    shutil.copytree(run, other)
    record = json.loads((other / "run.json").read_text())
    (other / "run.json").write_text(json.dumps({**record, "id": "other"}))
    mine = (folder / "README.md").read_text("utf-8") + "\nMy notes.\n"
    (folder / "README.md").write_text(mine)
    bill = json.loads((folder / "sbom.json").read_text())
    (folder / "sbom.json").write_text(json.dumps({**bill, "version": 2}))
    ran = zoo("export", "other", "--name", "shapes")
    assert ran.code == 0 and "README.md was written or edited by hand and is not replaced" in ran.err
    assert (folder / "README.md").read_text("utf-8") == mine
    assert json.loads((folder / "sbom.json").read_text())["version"] == 2
    for name, second in (("README.md", "MODEL_CARD.md"), ("sbom.json", "model.cdx.json")):
        assert "other" in (folder / second).read_text("utf-8")
        (folder / name).unlink()
    # The user has removed them, so that the usual names are used again.
    path = folder / "model.onnx"
    workflow.write(path, path, Predictor(path).info, workflow.Reporter(), None)
    assert_agrees(folder)
    names = sorted(path.name for path in folder.iterdir() if ".replaced-" not in path.name)
    assert names == ["README.md", "model.onnx", "sbom.json"]


def test_an_export_is_complete_without_its_card(zoo, export):
    run, folder = export
    for name in ("README.md", "MODEL_CARD.md"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()
    ran = zoo("export", run, "--name", "shapes")
    assert ran.code == 0 and "README.md could not be written" in ran.err and "neither is replaced" in ran.err
    assert sbom.digest_in((folder / "sbom.json").read_text("utf-8")) == sha256(folder / "model.onnx")


def test_a_card_that_cannot_be_replaced_does_not_describe_another_file(zoo, export, monkeypatch):
    from zoo.errors import WriteError

    def fail(path, text):
        raise WriteError("the disk is full.")

    run, folder = export
    monkeypatch.setattr(workflow, "_write_atomically", fail)
    model = onnx.load(run / "model.onnx")
    model.doc_string = "another file"
    onnx.save(model, folder / "model.onnx")
    info = Predictor(folder / "model.onnx").info
    warned = []

    class Listener(workflow.Reporter):
        def warn(self, text):
            warned.append(text)

    workflow.write(folder / "model.onnx", folder / "model.onnx", info, Listener(), None)
    assert "the disk is full" in warned[0]
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]


NAMES = ["a|b", "`c`", "<script>alert(1)</script>", "*x* [y](z)", "é\u202e\x85", "---"]


def test_hostile_names_stay_text(finished, tmp_path):
    run, _, _ = finished
    path = tmp_path / "hostile" / "model.onnx"
    path.parent.mkdir()
    model = onnx.load(run / "model.onnx")
    hostile = "p\n---\nlicense: mit\n<img src=x> | `q` \ud800 \U0001f600"
    for entry in model.metadata_props:
        if entry.key == "zoo.classes":
            entry.value = json.dumps([*NAMES[:2], NAMES[2] + NAMES[3] + NAMES[4] + NAMES[5]])
        if entry.key == "zoo.data":
            entry.value = json.dumps({**json.loads(entry.value), "name": hostile})
    onnx.save(model, path)
    facts = workflow.describe(path)
    text = model_card.render(facts)
    front = front_matter(text)
    assert "license" not in front and front["model-index"][0]["results"][0]["dataset"]["name"].startswith("p\n---\n")
    assert "\U0001f600" in front["model-index"][0]["results"][0]["dataset"]["name"]
    body = text.split("---\n", 2)[2]
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", body)
    assert not re.search(r"(?<!\\)<(script|img)", html.unescape(outside))
    assert "\u202e" not in text and "\x85" not in text and "\nlicense: mit" not in text
    (tmp_path / "sbom.json").write_text(sbom.render(facts), encoding="utf-8")
    assert_valid(tmp_path / "sbom.json")


def test_a_published_network_says_what_is_published(finished, tmp_path):
    """Its weights are not at hand in a quick test, so that the metadata of another file take their place."""
    run, _, _ = finished
    path = tmp_path / "published" / "model.onnx"
    path.parent.mkdir()
    model = onnx.load(run / "model.onnx")
    weights = {
        "random": False,
        "id": "mobilenetv2.imagenet1k",
        "file": "w.h5",
        "url": "https://example.org/w.h5",
        "sha256": "0" * 64,
        "licence": "BSD-3-Clause",
        "source": "https://example.org",
    }
    changed = {
        "zoo.weights": weights,
        "zoo.run": {"created": "2026-01-01T00:00:00Z", "versions": {"finezoo": "0.1.0"}},
        "zoo.metrics": {"published": {"top1": 0.713, "top5": None}},
        "zoo.data": {},
        "zoo.trust": {},
    }
    for entry in model.metadata_props:
        if entry.key in changed:
            entry.value = json.dumps(changed[entry.key])
    onnx.save(model, path)
    info = Predictor(path).info
    workflow.write(path, path, info, workflow.Reporter(), None)
    text = (path.parent / "README.md").read_text("utf-8")
    bill = json.loads((path.parent / "sbom.json").read_text("utf-8"))
    front = front_matter(text)
    assert front["license"] == "bsd-3-clause" and "model-index" not in front
    assert "top-1 0.713" in text and "zoo trained nothing" in text and "Smaller files" not in text
    assert_valid(path.parent / "sbom.json")
    (ancestor,) = bill["metadata"]["component"]["pedigree"]["ancestors"]
    assert ancestor["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    assert ancestor["hashes"] == [{"alg": "SHA-256", "content": "0" * 64}]
    assert {"type": "distribution", "url": "https://example.org/w.h5"} in ancestor["externalReferences"]
    assert bill["components"][0]["bom-ref"] == "weights"
