"""zoo finetune --config: what a file may hold, what is refused and how, and what the command line overrides."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import click
import pytest

from zoo.cli import config_option
from zoo.cli.train import finetune
from zoo.plugin import Phase, Schedule
from zoo.runs import RunRecord
from zoo.train import schedule as schedule_tools
from zoo.workflow import config_file

RECORDS = Path(__file__).parents[1] / "runs" / "records"


@pytest.fixture
def parsed(tmp_path, monkeypatch):
    """Return a function that parses the words of `zoo finetune`, where FILE is a file with the given content."""
    monkeypatch.chdir(tmp_path)

    def parse(content: str | bytes, *words: str) -> dict:
        path = tmp_path / "my.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with finetune.make_context("finetune", [*words, "--config", "my.toml"]) as context:
            return context.params

    return parse


@pytest.mark.parametrize(
    ("content", "name", "value"),
    [
        ("size = 160", "size", (160, 160)),
        ('size = "120x160"', "size", (120, 160)),
        ("size = [120, 160]", "size", (120, 160)),
        ("epochs = 3", "epochs", (3,)),
        ("epochs = [8, 1, 3]", "epochs", (8, 1, 3)),
        ('epochs = "8,1,3"', "epochs", (8, 1, 3)),
        ("learning-rate = [1e-3, 1]", "learning_rate", (1e-3, 1.0)),
        ("learning_rate = 0.1", "learning_rate", (0.1,)),
        ("hidden = []", "hidden", ()),
        ("hidden = [64, 8]", "hidden", (64, 8)),
        ("l2 = 1", "weight_l2", 1.0),
        ("precision = 0.99", "wanted_precision", 0.99),
        ('precision = "none"', "wanted_precision", 0.0),
        ('compute = "bfloat16"', "precision", "bfloat16"),
        ("cache-size = 0", "cache_size", 0),
        ('cache-size = "500MB"', "cache_size", 500_000_000),
        ('max-pixels = "200M"', "max_pixels", 200_000_000),
        ("cv = 3", "folds", 3),
        ("balance = true", "balance", True),
        ("no-balance = true", "balance", False),
        ("no-export = true", "export", False),
        ("export = false", "export", False),
        ("int8 = true", "int8", True),
        ("max-drop = 2", "max_drop", 2.0),
        ('rate = "cosine"', "override_lr_schedule", "cosine"),
        ('pool = "roi:3"', "pool", {"pool": "roi", "grid": 3}),
        ('classes = ["b", "a, c"]', "classes", ("b", "a, c")),
        ('classes = "b,c"', "classes", ("b", "c")),
        ('exclude = ["raw", "*.png"]', "exclude", ("raw", "*.png")),
        ('columns = ["path=file", "label=kind"]', "columns", ("path=file", "label=kind")),
        ('group-by = "column:animal"', "group_by", "column:animal"),
        (b"\xef\xbb\xbfseed = 4\r\n", "seed", 4),
        ("seed = 1_000", "seed", 1000),
        ("'seed' = 5 # as quoted keys", "seed", 5),
    ],
)
def test_values_of_a_file(content, name, value, parsed):
    assert parsed(content, "vgg16")[name] == value


def test_what_is_typed_replaces_the_file_even_if_it_is_the_default(parsed):
    content = 'architecture = "vgg16"\nseed = 4\nbatch-size = 8\nbalance = true\nint8 = true\nmax-drop = 3\n'
    values = parsed(content, "vgg19", "--seed", "0", "--batch-size=16", "--no-balance")
    assert (values["architecture"], values["seed"], values["batch_size"], values["balance"]) == ("vgg19", 0, 16, False)
    assert values["int8"] is True and values["max_drop"] == 3
    assert parsed(content)["architecture"] == "vgg16"


def test_paths_count_from_the_folder_of_the_file(tmp_path, monkeypatch):
    folder = tmp_path / "deep"
    folder.mkdir()
    (folder / "own.h5").touch()
    lines = ['data = "photos"', 'weights = "own.h5"', 'schedule = "my.toml"', 'runs = "../runs"', 'root = "r"']
    (folder / "a.toml").write_text("\n".join([*lines, 'architecture = "vgg16"']))
    monkeypatch.chdir(tmp_path)
    with finetune.make_context("finetune", ["--config", "deep/a.toml"]) as context:
        values = context.params
    assert (values["data"], values["weights"]) == (str(folder / "photos"), str(folder / "own.h5"))
    assert values["schedule"] == str(folder / "my.toml") and Path(values["runs"]).resolve() == tmp_path / "runs"
    assert values["root"] == str(folder / "r")
    (folder / "a.toml").write_text('architecture = "vgg16"\ndata = "digits"\nweights = "imagenet1k"\nschedule = "full"')
    with finetune.make_context("finetune", ["--config", "deep/a.toml"]) as context:
        values = context.params
    assert (values["data"], values["weights"], values["schedule"]) == ("digits", "imagenet1k", "full")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("lerning-rate = 3", "no option in 'my.toml' called 'lerning-rate'. Did you mean learning-rate"),
        ('"größe" = 3', "no option in 'my.toml' called 'größe'"),
        ("[training]\nseed = 1", "no option in 'my.toml' called 'training'"),
        ("[[phase]]\nname = 'x'", "Phases stand in [[schedule.phase]] tables"),
        ("dry-run = true", "dry-run says how the command works, and cannot be in a file. Type --dry-run"),
        ("seed = 1\nseed = 2\n", "at line 2"),
        ("seed = 1\nseed = 2\n", ". A key stands in the file twice."),
        ("seed = 1\nl2 = = 2", "at line 2"),
        ('seed = 1\ndata = "C:\\Photos"', ". Put a Windows path into single quotes: 'C:\\photos'"),
        ("batch-size = 1\nbatch_size = 2", "batch_size is given twice, in two forms"),
        ("balance = true\nno-balance = true", "no-balance is given twice, in two forms"),
        ("seed = true", "'my.toml': seed must be a number. Received: true"),
        ("[seed]\na = 1", "seed must be a number. Received: {'a': 1}"),
        ('seed = "x"', "'my.toml': seed must be a whole number from 0 to 2147483647. Received: 'x'"),
        ("seed = 1.5", "seed must be a whole number"),
        ("balance = 1", "balance must be true or false. Received: 1"),
        ("epochs = []", "epochs must be a list of at least one number"),
        ('epochs = [1, "a"]', "epochs must be a list of numbers"),
        ("epochs = [1, -1]", "epochs must be whole numbers from 0 to 999999, separated by commas. Received: '1,-1'"),
        ("optimizer = 3", "optimizer must be one of 'adam', 'adamw', 'sgd', 'rmsprop'. Received: 3"),
        ('optimizer = "adamx"', "'my.toml': optimizer: 'adamx' is not one of"),
        ("data = 1979-05-27", "data must be text in quotes"),
        ("name = 2024", "name must be text in quotes. Received: 2024"),
        ("exclude = [1]", "exclude must be text in quotes, or a list of such texts"),
        ("chosen = 3", "chosen must be a table"),
        ("", "is empty"),
        ("a = " + "[" * 5000, "nested too deeply"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "is not a text file in UTF-8"),
        ("seed = 1".encode("utf-16"), "is in UTF-16. Save it in UTF-8"),
        ('{"schema": 2, ', "is damaged, or is not JSON: "),
        ('{"accuracy": 1}', "is not a run.json of zoo"),
        ("[schedule]\nname = 'x'", "the schedule in 'my.toml' must hold one or more [[phase]] tables"),
        ("[[schedule.phase]]\nnam = 'x'", "Did you mean name"),
    ],
)
def test_what_a_file_must_not_hold(content, said, zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my.toml").write_bytes(content if isinstance(content, bytes) else content.encode())
    ran = zoo("finetune", "mnist_convnet", "--config", "my.toml", "--dry-run")
    assert ran.code in (1, 2) and said in ran.err and "Traceback" not in ran.err


def test_files_that_are_not_there(zoo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.toml").write_text("seed = 1\nint8 = true\n")
    for words, said in (
        (["--config", "nothing.toml", "vgg16"], "'nothing.toml' cannot be read: No such file"),
        (["--config", ".", "vgg16"], "is a folder without config.toml or run.json"),
        (["--config", "a.toml", "--config=a.toml", "vgg16"], "give --config once"),
        (["--config", "a.toml", "--resume", "x"], "Leave out --config"),
        (["--config", "a.toml"], "ARCH is missing"),
        (["--config", "a.toml", "vgg16", "--no-export"], "--int8 comes from 'a.toml'"),
    ):
        ran = zoo("finetune", *words)
        assert ran.code == 2 and said in ran.err


def test_a_file_names_the_pictures_that_are_gone(zoo, tmp_path, photos):
    (tmp_path / "a.toml").write_text('architecture = "vgg16"\ndata = "gone"\nseed = 7\nname = "mine"\n')
    ran = zoo("finetune", "--config", tmp_path / "a.toml", "--dry-run")
    assert ran.code == 1 and "If they have moved, type --data" in ran.err
    ran = zoo("finetune", "--config", tmp_path / "a.toml", "--data", photos, "--dry-run")
    assert ran.code == 0 and "seed 7" in ran.out and "mine/model.onnx" in ran.out


def test_every_option_is_recorded_or_cannot_be_in_a_file():
    """A new option of `zoo finetune` must be written into config.toml, or be named here."""
    keys = {max(each.opts, key=len).lstrip("-") for each in finetune.params} - set(config_option.ONLY_TYPED)
    written = {"architecture", "data", "weights", "size", "resize", "schedule", "precision", "pool", "keep", "balance"}
    written |= {"export"}
    written |= {"allow-chance", "int8", "int8-any-speed", "fp16", "as", "max-drop", "runs", "exported"}
    for table in (
        config_file.ALWAYS,
        config_file.GIVEN,
        config_file.GIVEN_PHASES,
        config_file.HEAD,
        config_file.READING,
    ):
        written |= table.keys()
    # What an export replaces is decided anew each time.
    assert keys - {"replace"} == written


# --- records ---------------------------------------------------------------------------------------------------------


def record(folder: str, **options) -> RunRecord:
    values = json.loads((RECORDS / folder / "run.json").read_text("utf-8"))
    return RunRecord.from_json({**values, "options": {**values["options"], **options}})


def test_what_zoo_chose_holds_for_the_same_network(tmp_path, monkeypatch):
    source = str(RECORDS / "1-published-weights" / "run.json")

    def values(*words):
        with finetune.make_context("finetune", [*words, "--config", source]) as context:
            return context.params

    known = values()
    assert (known["weights"], known["size"], known["schedule"]) == ("imagenet1k", (224, 224), "auto")
    assert values("--data", "elsewhere")["size"] == (224, 224)
    other = values("mobilenetv2_035")
    assert (other["weights"], other["size"], other["schedule"]) == ("auto", None, None)
    # A typed tag replaces the weights, and --weights none asks for another schedule.
    assert values("mobilenetv2.imagenet1k")["weights"] == "auto"
    random = values("--weights", "none")
    assert (random["architecture"], random["weights"], random["schedule"]) == ("mobilenetv2", "none", None)
    assert values("--hidden", "64")["schedule"] is None


def test_all_options_of_a_record_become_options_again(tmp_path):
    reading = {"classes": ["a, b", "c"], "exclude": ["raw"], "columns": [], "root": "/r", "max_pixels": 1000}
    reading["formats"] = ["jpeg", "png"]
    asked = {
        **{"reading": reading, "size": [20, 30], "weights": "/w.h5", "resize": "crop:0.5", "levels": 12},
        **{"augment": "light:flip=false", "epochs": [3, 1], "batch_size": 8, "learning_rates": [0.1], "views": 2},
        **{"optimizer": "sgd", "rate": "cosine", "clip_norm": 0.0, "ema": 0.9, "patience": 2, "keep_best": False},
        **{
            "head": {
                "pool": "roi",
                "grid": 3,
                "hidden": [],
                "dropout": 0.1,
                "weight_l1": 0.5,
                "weight_l2": 1,
                "reduce": 4,
            }
        },
        **{"label_smoothing": 0.1, "balance": True, "precision": "bfloat16", "cache_size": 0, "val_split": 0.2},
        **{"group_by": "a(.)", "wanted_precision": 0.0, "folds": 3, "seed": 9, "name": "mine", "export": False},
        "loggers": ["tensorboard"],
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps(record("1-published-weights", **asked).to_json()))
    with finetune.make_context("finetune", ["--config", str(path)]) as context:
        values = dict(context.params)
        from zoo.cli.options import training_values, variant_requests

        for key in ("allow_chance", "replace", "profile", "dry_run", "processes", "process_index", "coordinator"):
            values.pop(key)
        assert variant_requests(values) == ()
        again = training_values(values).to_json()
    expected = {**record("1-published-weights").options, **asked, "architecture": "mobilenetv2"}
    assert json.loads(json.dumps(again)) == expected


def test_formats_come_back_from_a_record(tmp_path):
    made = record("2-first").to_json()
    made["variants"] = [{"name": name, "max_drop": 0.02, "any_speed": False} for name in ("int8", "litert", "of-mine")]
    path = tmp_path / "run.json"
    path.write_text(json.dumps(made))
    with finetune.make_context("finetune", ["--config", str(path)]) as context:
        from zoo.cli.options import variant_requests

        requests = variant_requests(dict(context.params))
    assert [each.variant.option for each in requests] == ["--int8", "--as litert", "--as of-mine"]
    assert {each.limits.max_drop for each in requests} == {0.02}


def test_phases_that_no_plugin_provides(tmp_path, zoo):
    own = config_file.of_record(tmp_path / "run.json", record("2-first"))
    assert own.schedule is not None and [phase.name for phase in own.schedule.phases] == ["all", "again"]
    assert own.schedule.phases[0].patience is None and own.schedule.phases[1].clip_norm == 1
    assert "learning-rate" not in own.values and own.values["max-drop"] == 2 and own.values["fp16"] is True
    # A run of schema 1 recorded them when it was finished.
    old = record("1-resumable", schedule="mine")
    (tmp_path / "run.json").write_text(json.dumps(old.to_json()))
    ran = zoo("finetune", "--config", tmp_path / "run.json", "--data", "digits", "--dry-run")
    assert ran.code == 0, ran.err
    (tmp_path / "run.json").write_text(json.dumps({**old.to_json(), "status": "interrupted"}))
    ran = zoo("finetune", "--config", tmp_path / "run.json", "--data", "digits", "--dry-run")
    assert ran.code == 2 and "no plugin provides the schedule 'mine' of this run" in ran.err


def test_phases_come_back_from_a_file():
    phases = (
        Phase(name="a", train="head", epochs=1, learning_rate=1e-3, optimizer="exact", augment=False, patience=None),
        Phase(
            name="b", train="last:2", epochs=2, learning_rate=0.1, ema=0.9, min_steps=7, views=2, skip_below_loss=0.2
        ),
    )
    schedule = Schedule(name="mine", summary="Mine.", phases=phases, by_evidence=True)
    import tomlkit

    text = tomlkit.dumps(schedule_tools.to_toml(schedule))
    assert schedule_tools.parse(tomllib.loads(text), "here", "other") == schedule


def test_help_names_the_negative_forms():
    context = click.Context(finetune)
    shown = " ".join(finetune.get_help(context).split())
    for option in ("--balance / --no-balance", "--export / --no-export", "--int8 / --no-int8"):
        assert option in shown
