"""What a request becomes: overrides, the schedule that fits the weights, and errors before anything long begins."""

from __future__ import annotations

from pathlib import Path

from zoo.config import FinetuneConfig


def test_missing_weights_are_reported_before_options_that_do_not_fit_the_schedule_without_them(zoo):
    """With weights, the schedule has three phases; without them it has one."""
    ran = zoo("finetune", "mobilenetv2_050", "--epochs", "8,1,3")
    assert ran.code == 2 and "--epochs takes one value" in ran.err
    block = ran.err.index("NO PRETRAINED WEIGHTS")
    assert block < ran.err.index("the schedule is 'scratch'") < ran.err.index("--epochs takes one value")


def test_run_json_has_the_options_in_the_order_of_the_first_version():
    overrides = {"views": 3, "lr_schedule": "cosine", "layer_decay": 0.5}
    record = FinetuneConfig(architecture="net", overrides=overrides, runs=Path("there")).to_json()
    assert list(record) == [
        *("architecture", "data", "weights", "size", "resize", "schedule", "augment", "epochs", "batch_size"),
        *("learning_rates", "optimizer", "rate", "clip_norm", "ema", "head", "label_smoothing", "balance", "patience"),
        *("keep_best", "precision", "views", "cache_size", "val_split", "seed", "name", "runs", "exported", "export"),
        "layer_decay",
    ]
    assert (record["views"], record["rate"], record["layer_decay"]) == (3, "cosine", 0.5)
    assert record["runs"] == "there" and record["optimizer"] is record["patience"] is None
