"""Schedules: what each phase trains, layer by layer; growing networks; files of phases."""

from __future__ import annotations

import dataclasses
import itertools
import warnings

import numpy as np
import pytest
from harness import Listener, brightness_pictures, build_network, train

from zoo import backend
from zoo.errors import UsageError
from zoo.plugin import Head, Phase, Schedule
from zoo.train import inputs
from zoo.train import schedule as schedule_tools
from zoo.train.network import Network, attach_head, build_backbone, truncate


def learnable(size, channels=3):
    return brightness_pictures(size, channels, task="binary")


def run(architecture, size, phases, head, pictures=None, keep_best=True):
    """Train, noting all weights of the backbone where each phase begins and at the end."""
    network = build_network(architecture, size, head=head, task="binary", random_norms=False)
    model, notes = network.model, []

    def note(text="Phase "):
        if text.startswith("Phase "):
            layers = [model.get_layer(name) for name in network.backbone]
            notes.append({layer.name: [np.asarray(w) for w in layer.weights] for layer in layers if layer.weights})

    data = pictures or learnable(size, architecture.channels)
    outcome = train(network, phases, data, Listener(note), head=head, keep_best=keep_best)
    note()
    changed = [
        {
            name
            for name in before
            if any(a.tobytes() != b.tobytes() for a, b in zip(before[name], after[name], strict=True))
        }
        for before, after in itertools.pairwise(notes)
    ]
    return model, outcome, changed


@pytest.mark.slow
def test_a_growing_network_leaves_earlier_steps_as_they_are(plugins):
    """To the bit while they are frozen; the last phase moves all of it."""
    architecture = plugins.architecture("catsdogs_convnet")
    phases = plugins.schedule("grow").phases_for(architecture)
    short = [Phase(**{**vars(phase), "epochs": 1}) for phase in phases]
    assert [phase.depth for phase in short] == [1, 2, 3, 4, None]
    model, outcome, changed = run(architecture, (48, 48), short, Head(pool="flatten", hidden=(8,)))
    assert changed == [{"conv1"}, {"conv2"}, {"conv3"}, {"conv4"}, {"conv1", "conv2", "conv3", "conv4"}]
    assert [row["moved_layers"] for row in outcome.phases][1] == ["conv2", "depth2_head_hidden1", "depth2_logits"]
    assert model.layers[-1].name == "probabilities" and not any("depth" in layer.name for layer in model.layers)
    assert outcome.best_epoch == 5, "losses of networks of other depths do not count"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stages", "steps"),
    [
        pytest.param("vgg16", 5, None, marks=pytest.mark.every),
        pytest.param("resnet50", 5, None, marks=pytest.mark.every),
        pytest.param("densenet121", 5, None, marks=pytest.mark.every),
        pytest.param("mobilenetv2_035", 9, None, marks=pytest.mark.every),
        # Its first steps, and the last one, which trains all layers.
        ("mobilenetv2_035", 9, 3),
    ],
)
def test_families_grow(plugins, name, stages, steps):
    """BatchNorm of earlier steps stays too."""
    architecture = plugins.architecture(name)
    members = [
        {layer for found in stage.members(layers_of(architecture)).values() for layer in found}
        for stage in architecture.stages
    ]
    assert len(members) == stages
    phases = plugins.schedule("grow").phases_for(architecture)
    phases = [*phases[:steps], phases[-1]] if steps else phases
    short = [Phase(**{**vars(phase), "epochs": 1}) for phase in phases]
    # The last epoch, for a phase that makes nothing better would leave everything as it was.
    _, _, changed = run(architecture, (64, 64), short, Head(pool="flatten"), keep_best=False)
    for step, layers in enumerate(changed[:-1]):
        assert layers and layers <= members[step], step
    assert all(changed[-1] & stage for stage in members)


def layers_of(architecture):
    return [layer.name for layer in build_backbone(architecture, (64, 64)).layers]


@pytest.mark.parametrize(
    "name",
    [
        "resnet50v2",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("mobilenetv2", "inceptionv3", "nasnet_mobile", "convnext_tiny")
        ),
    ],
)
def test_a_cut_has_all_layers_of_its_stages(plugins, name):
    """The map that a stage hands on is found in residual, branching and dense networks."""
    from zoo.train.network import output_of_stage

    keras = backend.start()
    architecture = plugins.architecture(name)
    size = (max(architecture.min_size, 64),) * 2
    backbone = build_backbone(architecture, size)
    names = [layer.name for layer in backbone.layers]
    model = attach_head(backbone, architecture.head, 3, name)
    wanted = set()
    for number, stage in enumerate(architecture.stages[:-1]):
        wanted |= {layer for found in stage.members(names).values() for layer in found}
        stem = keras.Model(model.input, output_of_stage(model, names, architecture, number))
        got = {layer.name for layer in stem.layers if layer.weights}
        assert got == {layer for layer in wanted if model.get_layer(layer).weights}, stage.name


# What each schedule moves of vgg16's blocks; "head" is always there.
TRAINED = {
    "head-only": [0],
    "fine-tune": [0, 1, 1],
    "full": [0, 5],
    "gradual-unfreeze": [0, 1, 2, 3, 4, 5],
    "discriminative": [0, 5],
    "scratch": [5],
    "grow": [1, 1, 1, 1, 1, 5],
}
CONVOLUTIONS = (2, 2, 3, 3, 3)


def test_each_schedule_trains_what_it_says(plugins):

    from zoo.train import freeze
    from zoo.train.network import Network

    vgg = plugins.architecture("vgg16")
    backbone = build_backbone(vgg, (32, 32))
    model = attach_head(backbone, vgg.head, 2, "vgg16", task="binary")
    whole = Network(model, tuple(layer.name for layer in backbone.layers), vgg)
    before = freeze.layer_defaults(model)
    for name, counts in TRAINED.items():
        phases = plugins.schedule(name).phases_for(vgg)
        assert len(phases) == len(counts), name
        for phase, count in zip(phases, counts, strict=True):
            depth = phase.depth or 5
            network = whole if depth == 5 else truncate(whole, depth, vgg.head, 2, "binary")
            moving = freeze.set_trainable(network, phase, before)
            prefix = "" if depth == 5 else f"depth{depth}_"
            blocks = range(depth - count + 1, depth + 1)
            expected = [f"block{b}_conv{c}" for b in blocks for c in range(1, CONVOLUTIONS[b - 1] + 1)]
            assert list(moving.layers) == [*expected, f"{prefix}head_hidden1", f"{prefix}logits"], (name, phase.name)


def test_discriminative_rates_fall_toward_the_stem(plugins):
    from zoo.train import freeze

    vgg = plugins.architecture("vgg16")
    backbone = build_backbone(vgg, (32, 32))
    model = attach_head(backbone, vgg.head, 2, "vgg16")
    phase = plugins.schedule("discriminative").phases_for(vgg)[-1]
    names = [layer.name for layer in backbone.layers]
    lr_multipliers = freeze.set_trainable(
        Network(model, names, vgg), phase, freeze.layer_defaults(model)
    ).lr_multipliers
    rates = [lr_multipliers[f"block{b}_conv1/kernel"] for b in range(1, 6)]
    assert rates == pytest.approx([0.01, 0.0316, 0.1, 0.316, 1.0], rel=0.01) and lr_multipliers["logits/kernel"] == 1


def test_show_says_what_would_train(zoo):
    """VGG16 with its head: 30 weight tensors before, 4 after freezing."""
    ran = zoo("schedule", "show", "head-only", "vgg16", "--size", 32)
    assert ran.code == 0, ran.err
    assert "30 weight tensors can train" in ran.out and "4 weight tensors in 2 layers" in ran.out
    ran = zoo("schedule", "show", "grow", "vgg16", "--size", 32)
    reduced = zoo("schedule", "show", "head-only", "vgg16", "--size", 32, "--reduce", 8)
    assert "6 weight tensors in 3 layers" in reduced.out and "head_reduce" in reduced.out
    assert "stage 2, the first 2 of 5 stages" in ran.out and "block2_conv1, block2_conv2, depth2_" in ran.out


def test_show_tells_of_clipping_and_averages_where_there_are_any(zoo, tmp_path):
    path = tmp_path / "mine.toml"
    phase = '[[phase]]\nname = "head"\ntrain = "head"\nepochs = 1\nlearning_rate = 0.01\n'
    path.write_text(f"{phase}{phase}ema = 0.9\nclip_norm = 1.5\nrate = 'one-cycle'\nenough = 0.05\n")
    first, second = zoo("schedule", "show", path, "mnist_convnet").out.split("\n\n")[1:]
    assert "BatchNorm frozen\n" in first
    assert (
        "(one-cycle), BatchNorm frozen, skipped if the validation loss is at most 0.05, "
        "gradients clipped to a norm of 1.5, weights averaged with momentum 0.9\n" in second
    )


TOML = """
[[phase]]
name = "warm"
train = "head"
epochs = 2
learning_rate = 0.01
patience = 0

[[phase]]
name = "all"
train = "all"
epochs = 3
learning_rate = 1e-3
rate = "cosine"
"""


@pytest.mark.parametrize(
    ("old", "new", "value"),
    [("rate", "lr_schedule", "one-cycle"), ("rate_decay", "layer_decay", 0.5), ("enough", "skip_below_loss", 0.05)],
)
def test_files_accept_the_old_names_of_fields(plugins, tmp_path, old, new, value):
    """Without a warning, because a file is no program; but both names in one phase are an error."""
    path, phase = tmp_path / "mine.toml", TOML.replace('rate = "cosine"\n', "")
    for name in (old, new):
        path.write_text(f"{phase}{name} = {value!r}\n")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            first, second = schedule_tools.find(str(path), plugins).phases
        assert getattr(second, new) == value != getattr(first, new)
    path.write_text(f"{phase}{new} = {value!r}\n{old} = {value!r}\n")
    with pytest.raises(UsageError, match=f"phase 2: {old} is the old name of {new}; give one of them"):
        schedule_tools.find(str(path), plugins)


@pytest.mark.slow
def test_a_file_of_phases_trains(zoo, photos, tmp_path):
    import json

    (tmp_path / "Mine.toml").write_text(TOML)
    ran = zoo(
        *("finetune", "mnist_convnet", "--data", photos, "--schedule", tmp_path / "Mine.toml", "--batch-size", 8),
        *("--allow-chance", "--runs", tmp_path / "runs", "--exported", tmp_path / "exported"),
    )
    assert ran.code == 0, ran.err
    (run,) = (tmp_path / "runs").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert record["options"]["schedule"] == "mine"
    assert [(p["name"], p["epochs_run"], p["patience"]) for p in record["phases"]] == [("warm", 2, None), ("all", 3, 5)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("phase = 3", "one or more [[phase]]"),
        (TOML.replace('rate = "cosine"', 'rates = "cosine"'), "rates"),
        (TOML.replace('train = "head"\n', ""), "train must be given"),
        (TOML.replace('"all"\nepochs', '"some"\nepochs'), "train must be 'head'"),
        (TOML.replace('train = "all"', 'train = "last:4"'), "has 3 stages in phase 'all'"),
        (TOML.replace('rate = "cosine"', "depth = 2"), "Add a phase without depth at the end"),
        (TOML.replace('rate = "cosine"', "depth = 9"), "asks for depth 9"),
        (TOML.replace("patience = 0", "patience = false"), "patience must be"),
        (TOML.replace("patience = 0", "clip_norm = 0"), "clip_norm must be above 0"),
        (TOML.replace("patience = 0", "views = 3"), "--views goes with --augment"),
        ("phase = [", "is not a TOML file"),
    ],
)
def test_a_wrong_file_is_refused_before_anything_begins(zoo, photos, tmp_path, text, problem):
    (tmp_path / "mine.toml").write_text(text)
    ran = zoo(
        "finetune", "mnist_convnet", "--data", photos, "--schedule", tmp_path / "mine.toml", "--runs", tmp_path / "runs"
    )
    assert ran.code == 2 and problem in ran.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("last", "problem"),
    [('train = "from:nosuch"', "nosuch"), ('train = "from:conv3"\ndepth = 2', "in the 2 stages of")],
)
def test_a_layer_that_does_not_exist_is_found_before_the_first_phase(zoo, photos, tmp_path, last, problem):
    end = '[[phase]]\nname = "end"\ntrain = "all"\nepochs = 1\nlearning_rate = 1e-3\n'
    (tmp_path / "My phases (2).toml").write_text(TOML.replace('train = "all"', last) + end)
    ran = zoo(
        *("finetune", "mnist_convnet", "--data", photos, "--schedule", tmp_path / "My phases (2).toml"),
        *("--runs", tmp_path / "runs"),
    )
    assert ran.code == 2 and problem in ran.err
    assert "my-phases-2" in ran.out and "epoch " not in ran.out


@pytest.mark.parametrize(("train", "depth"), [("last:3", 2), ("all", 99), ("from:nosuch", None), ("all", 2)])
def test_the_kit_refuses_schedules_that_do_not_fit(plugins, train, depth):
    from zoo import testing
    from zoo.plugin import Schedule

    phases = (Phase(name="x", train=train, epochs=1, learning_rate=1e-3, depth=depth),)
    with pytest.raises(AssertionError, match="odd"):
        testing.check_schedule(Schedule(name="odd", summary="-", phases=phases), plugins.architecture("mnist_convnet"))


@pytest.mark.slow
def test_growing_gives_the_same_bytes_again(plugins):
    architecture = plugins.architecture("catsdogs_convnet")
    phases = [Phase(**{**vars(p), "epochs": 1}) for p in plugins.schedule("grow").phases_for(architecture)]
    head = Head(pool="flatten", hidden=(8,), dropout=0.3)
    first, second = (run(architecture, (48, 48), phases, head)[0].get_weights() for _ in range(2))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))


def test_penalties_do_not_choose_the_epoch(plugins):
    """On labels of chance the cross-entropy only rises; a penalty on shrinking kernels must not hide that."""
    architecture = plugins.architecture("mnist_dense")
    pictures = learnable((8, 8), 1)
    targets = np.eye(2, dtype="float32")[np.random.default_rng(1).permutation(np.arange(40) % 2)]
    pictures = inputs.TrainingData(pictures.array, targets, pictures.train, pictures.val, "binary")
    phase = Phase(name="x", train="all", epochs=6, learning_rate=1e-3, patience=None)
    head = Head(pool="flatten", hidden=(16,), weight_l2=0.5)
    _, outcome, _ = run(architecture, (8, 8), [phase], head, pictures)
    losses = [row["val_loss"] for row in outcome.history]
    assert outcome.best_epoch == 1 + int(np.argmin(losses))
    assert max(losses) < 3 < outcome.history[0]["loss"], "the penalty is about 8, in the training loss alone"


def test_override_epochs_and_rates():
    schedule = (
        Phase(name="head", train="head", epochs=3, learning_rate=1e-3),
        Phase(name="top", train="last:1", epochs=6, learning_rate=1e-4),
    )
    assert [p.epochs for p in schedule_tools.override(schedule, epochs=(3, 5))] == [3, 5]
    assert [p.epochs for p in schedule_tools.override(schedule, epochs=(10,))] == [5, 10]
    assert [p.epochs for p in schedule_tools.override(schedule, epochs=(1,))] == [1, 1]
    assert [p.name for p in schedule_tools.override(schedule, epochs=(2, 0))] == ["head"]
    assert [p.learning_rate for p in schedule_tools.override(schedule, learning_rates=(0.1,))] == pytest.approx(
        [0.1, 0.01]
    )
    assert [p.learning_rate for p in schedule_tools.override(schedule, learning_rates=(0.1, 0.2))] == [0.1, 0.2]
    assert {p.optimizer for p in schedule_tools.override(schedule, overrides={"optimizer": "sgd"})} == {"sgd"}
    assert schedule_tools.override(schedule) == schedule
    sparing = [dataclasses.replace(phase, skip_below_loss=0.1) for phase in schedule]
    assert {p.skip_below_loss for p in schedule_tools.override(sparing, epochs=(9,))} == {0.1}
    assert {p.skip_below_loss for p in schedule_tools.override(sparing, epochs=(3, 5))} == {None}
    with pytest.raises(UsageError, match=r"phase 'head' cannot be trained with these options: .*nan"):
        schedule_tools.override(schedule, overrides={"clip_norm": float("nan")})
    averaged = schedule_tools.override(schedule, overrides={"ema": 0.9, "clip_norm": 2.0})
    assert {(p.ema, p.clip_norm) for p in averaged} == {(0.9, 2.0)}
    off = schedule_tools.override(averaged, overrides={"ema": 0, "clip_norm": 0})
    assert {(p.ema, p.clip_norm) for p in off} == {(None, None)}
    with pytest.raises(UsageError, match=r"2 phases \(head, top\)"):
        schedule_tools.override(schedule, epochs=(1, 2, 3))
    with pytest.raises(UsageError, match="nothing to train"):
        schedule_tools.override(schedule, epochs=(0,))


def test_too_many_values_for_a_schedule_of_one_phase():
    only = Phase(name="all", train="all", epochs=3, learning_rate=1e-3)
    with pytest.raises(UsageError) as caught:
        schedule_tools.override([only], epochs=(1, 2))
    expected = "--epochs takes one value, because the schedule has one phase (all). Received: 2 values."
    assert str(caught.value) == expected
    with pytest.raises(UsageError, match=r"--learning-rate takes one value, because .* phase \(all\)"):
        schedule_tools.override([only], learning_rates=(0.1, 0.2, 0.3))


def test_show_counts_one_layer_and_one_epoch_in_the_singular(plugins):
    phase = Phase(name="head", train="head", epochs=1, learning_rate=1e-3)
    schedule = Schedule(name="short", summary="one phase", phases=(phase,))
    text = schedule_tools.show(schedule, plugins.architecture("mnist_dense"), size=None, classes=3, head=Head())
    assert "trains head, 1 epoch, adam at 0.001" in text and " in 1 layer, " in text
