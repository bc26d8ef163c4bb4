"""What a request becomes: overrides, the schedule that fits the weights, and errors before anything long begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo.config import FinetuneConfig, resolve
from zoo.errors import UnknownName, UsageError, WeightsUnavailable
from zoo.reporter import Reporter
from zoo.train import schedule as schedule_tools


def test_missing_weights_are_reported_before_options_that_do_not_fit_the_schedule_without_them(zoo):
    """With weights, the schedule has two phases; without them it has one."""
    ran = zoo("finetune", "mobilenetv2_050", "--epochs", "1,3")
    assert ran.code == 2 and "--epochs takes one value" in ran.err
    block = ran.err.index("NO PRETRAINED WEIGHTS")
    assert block < ran.err.index("The schedule is 'scratch'") < ran.err.index("--epochs takes one value")


def test_run_json_has_the_options_in_the_order_of_the_first_version():
    overrides = {"views": 3, "lr_schedule": "cosine", "layer_decay": 0.5}
    record = FinetuneConfig(architecture="net", overrides=overrides, runs=Path("there")).to_json()
    assert list(record) == [
        *("architecture", "data", "reading", "weights", "size", "resize", "levels", "schedule", "augment", "epochs"),
        "batch_size",
        *("learning_rates", "optimizer", "rate", "clip_norm", "ema", "head", "label_smoothing", "balance", "patience"),
        *(
            "keep_best",
            "precision",
            "views",
            "cache_size",
            "val_split",
            "group_by",
            "wanted_precision",
            "folds",
            "seed",
            "name",
            "runs",
            "exported",
            "export",
            "loggers",
        ),
        "layer_decay",
    ]
    assert (record["views"], record["rate"], record["layer_decay"]) == (3, "cosine", 0.5)
    assert record["runs"] == "there" and record["optimizer"] is record["patience"] is None


def request(photos, **others):
    values = {"architecture": "mnist_convnet", "data": str(photos), "weights": "none", "export": False}
    return FinetuneConfig(**{**values, **others})


def test_overrides_apply_to_every_phase(plugins, photos):
    asked = request(
        photos,
        schedule="full",
        epochs=(4,),
        learning_rates=(0.5,),
        overrides={"optimizer": "sgd", "patience": 0, "clip_norm": 2.0, "lr_schedule": "constant"},
        head={"dropout": 0.25, "hidden": (8,)},
        size=(40, 48),
        resize="crop:0.8",
        augment="light",
        name="mine",
    )
    plain = resolve(request(photos, schedule="full"), plugins, Reporter())
    resolved = resolve(asked, plugins, Reporter())
    assert [phase.name for phase in resolved.phases] == [phase.name for phase in plain.phases] and len(plain.phases) > 1
    for phase in resolved.phases:
        assert (phase.optimizer, phase.patience, phase.clip_norm, phase.lr_schedule) == ("sgd", None, 2.0, "constant")
    assert max(phase.epochs for phase in resolved.phases) == 4
    assert max(phase.learning_rate for phase in resolved.phases) == 0.5
    assert (resolved.head.dropout, resolved.head.hidden, resolved.head.pool) == (0.25, (8,), plain.head.pool)
    assert resolved.spec.to_json()["size"] == [40, 48] and resolved.spec.fraction == 0.8
    assert (resolved.name, plain.name) == ("mine", "mnist_convnet-photos")
    assert plain.augment is None and resolved.augment is not None and resolved.augmentation.name == "light"


@pytest.mark.parametrize(
    ("weights", "schedule", "decided"),
    [
        ("none", None, ["scratch"]),
        ("auto", None, ["auto", "scratch"]),
        ("auto", "full", ["full", "full"]),
        ("file", None, ["auto"]),
    ],
)
def test_the_schedule_is_decided_again_only_if_weights_are_missing(
    plugins, photos, tmp_path, monkeypatch, weights, schedule, decided
):
    (tmp_path / "mine.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    found, find = [], schedule_tools.find
    monkeypatch.setattr(schedule_tools, "find", lambda text, registry: found.append(text) or find(text, registry))
    weights = str(tmp_path / "mine.h5") if weights == "file" else weights
    asked = request(photos, architecture="mobilenetv2_035", weights=weights, schedule=schedule)
    resolved = resolve(asked, plugins, Reporter())
    assert found == decided and resolved.schedule.name == decided[-1]
    assert resolved.weights.random == (weights in ("none", "auto"))


def test_layers_that_stay_random_are_warned_of(plugins, photos):
    assert resolve(request(photos), plugins, Reporter()).warnings == ()
    (warning,) = resolve(request(photos, schedule="head-only"), plugins, Reporter()).warnings
    assert "schedule head-only keeps layers frozen that have random weights" in warning


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"architecture": "mnist_convnt"}, UnknownName, "Did you mean mnist_convnet"),
        ({"head": {"dropout": 1.5}}, UsageError, r"dropout must be in \[0, 1\)"),
        ({"head": {"hidden": (0,)}}, UsageError, "hidden must be a positive whole number"),
        ({"size": (4, 4)}, UsageError, "at least"),
        ({"resize": "zoom"}, UsageError, "--resize must be squash"),
        ({"name": "a/b"}, UsageError, "--name may hold .* `--name a-b` would do"),
        ({"name": "собаки"}, UsageError, "`--name sobaki` would do"),
        ({"name": "NUL.x"}, UsageError, "Windows reserves it"),
        ({"name": "a" * 201}, UsageError, "at most 200 characters"),
        ({"epochs": (1, 2)}, UsageError, "--epochs takes one value"),
        ({"overrides": {"views": 2}}, UsageError, "--views goes with --augment"),
        ({"overrides": {"ema": 2}}, UsageError, "cannot be trained with these options: Phase: ema"),
        ({"weights": "nowhere/w.h5"}, WeightsUnavailable, "nowhere/w.h5' cannot be read"),
    ],
)
def test_wrong_requests(plugins, photos, changes, error, message):
    with pytest.raises(error, match=message):
        resolve(request(photos, **changes), plugins, Reporter())
