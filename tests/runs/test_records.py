"""Records that earlier versions of zoo wrote: run.schema.json, their change into the present form, and all commands.

The records in `records` were written by the versions of zoo in which the content of run.json changed. Their names begin
with their schema. `/data/digits3.npz` is what `digits3` makes.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import typing
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from sklearn.datasets import load_digits

from zoo import backend, runs
from zoo.errors import RunError
from zoo.plugin import Head
from zoo.runs import entries
from zoo.runs.record import LATER, SCHEMA, RunRecord
from zoo.train.frozen.stats import CacheStats
from zoo_runtime import ImageSpec

RECORDS = Path(__file__).parent / "records"
NAMES = sorted(path.name for path in RECORDS.iterdir())
SCHEMA_FILE = Path(runs.__file__).parent / "run.schema.json"


def content(name: str) -> dict:
    return json.loads((RECORDS / name / "run.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def digits3(tmp_path_factory) -> Path:
    """The pictures of the records: 90 digits of three classes."""
    digits = load_digits(n_class=3)
    path = tmp_path_factory.mktemp("data") / "digits3.npz"
    images = (digits.images[:90] * 15).astype(np.uint8)
    np.savez(path, x_train=images, y_train=np.array(["zero", "one", "two"])[digits.target[:90]])
    return path


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(SCHEMA_FILE.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def problems(validator, values) -> list[str]:
    # As a file has them: tuples are lists.
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(json.loads(json.dumps(values)))]


def test_every_schema_has_records():
    assert {int(name.partition("-")[0]) for name in NAMES} == set(range(1, SCHEMA + 1)) and len(NAMES) >= 9
    for name in NAMES:
        assert content(name)["schema"] == int(name.partition("-")[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_record_is_read_and_written_in_the_present_form(name, validator):
    record, before = RunRecord.from_json(content(name)), content(name)
    written = record.to_json()
    assert problems(validator, written) == [] and written["schema"] == SCHEMA and record.others == {}
    assert all(written[key] == value for key, value in before.items() if key != "schema")
    again = json.loads(json.dumps(written))
    assert RunRecord.from_json(again).to_json() == again


def test_a_new_run_and_its_steps_fit_the_schema(finished, validator):
    values = json.loads((finished[0] / "run.json").read_text("utf-8"))
    assert problems(validator, values) == []
    assert values["schedule"]["own_file"] is False and values["backend"] == backend.wanted()
    assert [phase["name"] for phase in values["schedule"]["phases"]] == [phase["name"] for phase in values["phases"]]
    begun = {key: value for key, value in values.items() if key not in ("prefix", "best_epoch", "parity", "evidence")}
    assert problems(validator, {**begun, "status": "running", "phases": [], "seconds": {}}) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": "done"}, "$.status"),
        ({"seconds": {"train": "long"}}, "$.seconds.train"),
        ({"options": {}}, "$.options"),
        ({"classes": None}, "$.classes"),
    ],
)
def test_the_schema_refuses(change, said, validator):
    found = problems(validator, {**content("2-first"), **change})
    assert found and all(text.startswith(said) for text in found)


def test_the_schema_has_the_types_of_the_code():
    schema = json.loads(SCHEMA_FILE.read_text("utf-8"))
    fields = [each for each in dataclasses.fields(RunRecord) if each.name != "others"]
    assert list(schema["properties"]) == ["schema", *(each.name for each in fields)]
    assert schema["required"] == ["schema", *(each.name for each in fields if each.name not in LATER)]
    assert schema["properties"]["schema"] == {"const": SCHEMA}
    typed = {name: value for name, value in vars(entries).items() if typing.is_typeddict(value)}
    assert typed and typed.keys() | {"Head", "Image", "Prefix"} == schema["$defs"].keys()
    for name, kind in typed.items():
        keys = typing.get_type_hints(kind, include_extras=True)
        needed = [key for key, hint in keys.items() if typing.get_origin(hint) is not typing.NotRequired]
        assert (list(schema["$defs"][name]["properties"]), schema["$defs"][name]["required"]) == (list(keys), needed)
    for name, kind in (("Head", Head), ("Image", ImageSpec), ("Prefix", CacheStats)):
        assert list(schema["$defs"][name]["properties"]) == [each.name for each in dataclasses.fields(kind)]


def test_what_schema_1_says_in_its_command_only():
    before = content("1-resumable")
    words = [*before["command"], "--int8", "--max-drop=2.5", "--int8-any-speed", "--allow-chance"]
    record = RunRecord.from_json({**before, "command": words})
    assert record.variants == [{"name": "int8", "max_drop": 0.025, "any_speed": True}] and record.allow_chance
    assert record.schedule is None and record.backend is None
    assert RunRecord.from_json(before).variants == [] and not RunRecord.from_json(before).allow_chance


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 3, "versions": {"finezoo": "9.1"}}, "cannot be read: finezoo 9.1 wrote it with schema 3, and this"),
        ({"schema": 99, "versions": None}, "a newer version of zoo wrote it with schema 99"),
        ({"schema": None}, "damaged: it does not say which schema it has (1 to 2). Received: None"),
        ({"schema": True}, "does not say which schema"),
        ({"options": []}, "damaged: the entry options must be an object. Received: '[]'"),
        ({"phases": {"a": 1}}, "the entry phases must be a list"),
    ],
)
def test_other_records_are_refused(change, said, tmp_path, zoo):
    run = runs.Run(tmp_path / "run")
    run.folder.mkdir()
    run.write_json("run.json", {**content("1-resumable"), **change})
    with pytest.raises(RunError) as caught:
        run.read_record()
    assert said in str(caught.value)
    ran = zoo("report", run.folder)
    assert ran.code == 1 and said in ran.err


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network(tmp_path_factory, plugins) -> Path:
    """A file with a network of the architecture, the size and the classes of the records. It has learned nothing."""
    from zoo.train.network import assemble, build_backbone

    backend.start().utils.set_random_seed(1)
    architecture = plugins.architecture("mnist_convnet")
    whole = assemble(build_backbone(architecture, (32, 32)), architecture, architecture.head, 3, task="multiclass")
    path = tmp_path_factory.mktemp("network") / "model.keras"
    whole.model.save(path)
    return path


@pytest.fixture
def old_run(tmp_path, network):
    """Return a function that makes a run folder of a record."""

    def make(name: str) -> Path:
        run = shutil.copytree(RECORDS / name, tmp_path / "runs" / content(name)["id"])
        shutil.copy(network, run)
        return run

    return make


CONVNETS = [name for name in NAMES if content(name)["architecture"]["name"] == "mnist_convnet"]
QUICK = {"1-heads", "1-resumable"}


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CONVNETS]
)
def test_commands_cope_with_an_old_run(name, old_run, zoo, digits3, tmp_path):
    run, folders = old_run(name), ("--runs", tmp_path / "runs", "--exported", tmp_path / "exported")
    ran = zoo("evaluate", run, "--data", digits3)
    assert ran.code == 0 and "13 pictures" in ran.out, ran.err
    if name not in QUICK or name == "1-resumable":
        ran = zoo("export", run, "--data", digits3, "--allow-chance", "--precision", "none", *folders)
        assert ran.code == 0, ran.err
        (model,) = (tmp_path / "exported").glob("*/model.onnx")
        written = json.loads((run / "run.json").read_text("utf-8"))
        assert written["schema"] == SCHEMA and written["parity"]["pictures"] > 0
        ran = zoo("predict", model, run / "sample.png")
        assert ran.code == 0 and "sample.png" in ran.out, ran.err
    for words in (("report", run), ("plot", run, "--output", tmp_path / "curves.png")):
        ran = zoo(*words)
        assert ran.code == 0, ran.err
    assert "mnist_convnet" in (run / "report.html").read_text("utf-8")
    ran = zoo("resume", run)
    assert ran.code == 0 and "is finished" in ran.out


@pytest.mark.parametrize("name", [name for name in NAMES if name not in CONVNETS])
def test_pages_of_records_without_a_network(name, old_run, zoo, tmp_path):
    run = old_run(name)
    for words in (("report", run), ("plot", run, "--output", tmp_path / "curves.png")):
        ran = zoo(*words)
        assert ran.code == 0, ran.err


def test_an_old_and_a_new_run_are_compared(old_run, zoo, tmp_path):
    page = tmp_path / "compare.html"
    ran = zoo("report", old_run("1-heads"), old_run("2-first"), "--output", page)
    assert ran.code == 0, ran.err
    assert "two-steps" in page.read_text("utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_of_a_record_are_taken(name, zoo, digits3, tmp_path):
    options = ("--data", digits3, "--exported", tmp_path / "exported", "--dry-run")
    ran = zoo("finetune", "--config", RECORDS / name / "run.json", *options)
    assert ran.code == 0, ran.err
    seed, architecture = content(name)["options"]["seed"], content(name)["architecture"]["name"]
    assert f"seed {seed}" in ran.out and f"{architecture}-digits3" in ran.out
    ran = zoo("finetune", "--config", RECORDS / name / "run.json", "--dry-run")
    assert ran.code == 1 and "/data/" in ran.err and "If they have moved, type --data" in ran.err
