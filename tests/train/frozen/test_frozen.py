"""The frozen prefix: where networks are cut, that features are what Keras computes, what is kept and what is found."""

from __future__ import annotations

import dataclasses
import json
import os
import re

import numpy as np
import pytest

from zoo import backend
from zoo.errors import TrainingError
from zoo.plugin import Head, Phase, registry
from zoo.reporter import Reporter
from zoo.testing import randomize
from zoo.train import engine, freeze, inputs, views
from zoo.train.batches import PhaseInputs, plain
from zoo.train.frozen import cut as cut_module
from zoo.train.frozen import features as feature_module
from zoo.train.frozen import store
from zoo.train.frozen.cut import find_cut
from zoo.train.frozen.features import FeatureCache, FeatureCacheConfig
from zoo.train.network import Network, attach_head, build_backbone

SIZE = (64, 64)


class Listener(Reporter):
    """Keeps what is said."""

    def __init__(self):
        super().__init__()
        self.said = []

    def say(self, text):
        self.said.append(text)

    warn = say


def pictures(size=SIZE, channels=3, count=40):
    """Two classes that brightness tells apart."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    array = (rng.integers(0, 100, (count, *size, channels)) + 150 * labels[:, None, None, None]).astype(np.uint8)
    cut = count * 3 // 4
    return inputs.TrainingData(array, np.eye(2, dtype="float32")[labels], np.arange(cut), np.arange(cut, count))


def network(name, train, *, size=SIZE, seed=0, head=None):
    """A randomised network whose layers are set for a phase."""
    architecture = registry.load().architecture(name)
    backend.start().utils.set_random_seed(seed)
    backbone = build_backbone(architecture, size)
    randomize(backbone)
    model = attach_head(backbone, head or architecture.head, 2, name)
    now = Network(model, tuple(layer.name for layer in backbone.layers), architecture)
    phase = Phase(name="x", train=train, epochs=1, learning_rate=1e-3)
    freeze.set_trainable(now, phase, freeze.layer_defaults(model))
    return now


def features(folder, given, reporter=None, **settings):
    settings = FeatureCacheConfig(folder, **{"pictures": "these", "always": True, **settings})
    return FeatureCache(settings, given.array, given.targets, reporter or Listener())


def phase_inputs(now, given, made, **options):
    as_they_are = plain(given.array, given.targets)
    options = {"views": None, "online": False, "later": [], **options}
    later = options.pop("later")
    cut = find_cut(now.logits_model)
    unchanged = PhaseInputs(now.logits_model, as_they_are, as_they_are)
    return made.inputs(now.logits_model, cut, later, unchanged, train=given.train, val=given.val, **options)


CUTS = [
    ("mnist_convnet", "head", 1, None),
    ("mnist_convnet", "last:1", 1, None),
    ("mnist_convnet", "last:2", 1, None),
    # After the global pool; in front of the expansion of a residual block; between two.
    ("mobilenetv2_035", "head", 1, 1280),
    ("mobilenetv2_035", "from:block_13_expand", 1, 4 * 4 * 32),
    ("mobilenetv2_035", "from:block_8_depthwise", 2, None),
    *(
        pytest.param(*cut, marks=pytest.mark.slow)
        for cut in (
            ("resnet50", "head", 1, 2048),
            ("resnet50", "last:1", 1, 4 * 4 * 1024),
            ("resnet50", "from:conv4_block3_2_conv", 2, None),
            ("densenet121", "head", 1, 1024),
            ("densenet121", "last:1", None, None),
            ("densenet121", "from:conv4_block10_1_conv", None, None),
            ("resnext50", "last:1", None, None),
            ("nasnet_mobile", "last:1", None, None),
        )
    ),
]


@pytest.mark.parametrize(("name", "train", "tensors", "floats"), CUTS)
def test_features_and_the_first_step_are_what_the_whole_network_gives(tmp_path, name, train, tensors, floats):
    import tensorflow as tf

    keras = backend.start()
    channels = registry.load().architecture(name).channels
    given = pictures(channels=channels)
    # Without dropout, which would drop other units in the second of two steps.
    now = network(name, train, head=dataclasses.replace(registry.load().architecture(name).head, dropout=0))
    cut = find_cut(now.logits_model)
    if tensors is not None:
        assert len(cut.tensors) == tensors
    assert floats is None or cut.floats == floats
    trainable = {layer.name for layer in now.logits_model.layers if layer.trainable_weights}
    assert cut.layers and not cut.layers & trainable
    made = phase_inputs(now, given, features(tmp_path, given))
    assert (
        made.kept == (True, True)
        and {layer.name for layer in made.trained_part.layers if layer.trainable_weights} == trainable
    )

    chosen = given.train[:8]
    read, targets = made.train(0, chosen)
    lower = keras.Model(now.logits_model.inputs[0], list(cut.tensors))
    pixels = tf.constant(given.array[chosen].astype("float32"))
    whole = lower(pixels)
    for expected, received in zip(whole if isinstance(whole, list) else [whole], read, strict=True):
        assert np.abs(received - expected).max() / np.abs(expected).max() <= 1e-4

    def step(model, inputs):
        with tf.GradientTape() as tape:
            loss = keras.losses.CategoricalCrossentropy(from_logits=True)(targets, model(inputs, training=True))
        weights = now.logits_model.trainable_weights
        return float(loss), [float(tf.norm(g)) for g in tape.gradient(loss, [w.value for w in weights])]

    whole, part = step(now.logits_model, pixels), step(made.trained_part, [tf.constant(x) for x in read])
    assert part[0] == pytest.approx(whole[0], rel=1e-3)
    greatest = max(whole[1])
    assert part[1] == pytest.approx(whole[1], rel=1e-3, abs=1e-6 * greatest)


def test_nothing_is_cut_where_everything_trains():
    assert find_cut(network("mnist_convnet", "all").logits_model) is None


def test_dropout_that_drops_is_above_the_cut():
    """And behind it nothing is constant: the flat head of a frozen base is cut in front of its dropout."""
    now = network("mnist_convnet", "head", head=Head(pool="flatten", dropout=0.5, hidden=(8,)))
    cut = find_cut(now.logits_model)
    rest = {layer.name for layer in backend.start().Model(list(cut.tensors), now.logits_model.output).layers}
    assert {"head_dropout", "head_hidden1", "logits"} <= rest and "conv1" not in rest


def test_the_digest_of_features_knows_weights_structure_and_nothing_else():
    now = network("mnist_convnet", "last:1")
    (tensor,) = find_cut(now.logits_model).tensors
    first = cut_module.digest(now.logits_model, tensor)
    other = network("mnist_convnet", "last:1")
    (tensor,) = find_cut(other.logits_model).tensors
    assert cut_module.digest(other.logits_model, tensor) == first
    lowest = next(layer for layer in other.logits_model.layers if layer.weights)
    highest = other.logits_model.get_layer("logits")
    highest.set_weights([w + 1 for w in highest.get_weights()])
    assert cut_module.digest(other.logits_model, tensor) == first, "what is above does not matter"
    lowest.set_weights([w + 1e-6 for w in lowest.get_weights()])
    assert cut_module.digest(other.logits_model, tensor) != first
    larger = network("mnist_convnet", "last:1", size=(48, 48))
    (tensor,) = find_cut(larger.logits_model).tensors
    assert cut_module.digest(larger.logits_model, tensor) != first


def train(name, given, schedule, *, settings, seed=0, augment=None, reporter=None, head=None):
    architecture = registry.load().architecture(name)
    backend.start().utils.set_random_seed(seed)
    backbone = build_backbone(architecture, given.array.shape[1:3])
    randomize(backbone)
    head = head or architecture.head
    model = attach_head(backbone, head, 2, "test", task=given.task)
    outcome = engine.train(
        Network(model, tuple(layer.name for layer in backbone.layers), architecture),
        schedule,
        given,
        engine.TrainConfig(batch_size=10, seed=seed, augment=augment, head=head, features=settings),
        reporter or Listener(),
    )
    return outcome, model.get_weights()


SCHEDULE = (
    Phase(name="head", train="head", epochs=2, learning_rate=1e-3),
    Phase(name="top", train="last:1", epochs=2, learning_rate=1e-3),
    Phase(name="all", train="all", epochs=1, learning_rate=1e-4),
)


def losses(outcome):
    return [row[key] for row in outcome.history for key in ("loss", "val_loss")]


def test_training_is_the_same_with_and_without_and_found_features_change_no_bit(tmp_path):
    given, heard = pictures(channels=1), Listener()
    plainly, _ = train("mnist_convnet", given, SCHEDULE, settings=None)
    settings = FeatureCacheConfig(tmp_path, pictures="these", always=True)
    first, weights = train("mnist_convnet", given, SCHEDULE, settings=settings, reporter=heard)
    assert losses(first) == pytest.approx(losses(plainly), rel=1e-3)
    computed = [text for text in heard.said if "pictures computed in" in text]
    assert len(computed) == 1 and "40 pictures computed" in computed[0], "once for both phases"
    assert any(text.startswith("Frozen prefix: features of 40 pictures were read 160 times") for text in heard.said)
    assert first.prefix["computed"] == 40 and first.prefix["read"] == 160 and first.prefix["engine"] == "onnxruntime"
    assert first.prefix["numbers"] == "float32"
    heard.said.clear()
    second, again = train("mnist_convnet", given, SCHEDULE, settings=settings, reporter=heard)
    assert second.prefix["computed"] == 0 and second.prefix["found"] == 40 and second.prefix["seconds_preparing"] == 0
    # What it would have taken is known from the first run.
    assert second.prefix["seconds_read"] > 0 and second.prefix["seconds_computing"] == 0
    assert losses(second) == losses(first)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(weights, again, strict=True))


def brighter(images, labels, seeds):
    return np.clip(images + (seeds % np.uint64(50)).astype("float32")[:, None, None, None], 0, 255), labels


@pytest.mark.parametrize("count", [None, 2])
def test_altered_pictures_go_through_the_prefix_too(tmp_path, count):
    given = pictures(channels=1)
    schedule = [dataclasses.replace(phase, views=count) for phase in SCHEDULE]
    plainly, _ = train("mnist_convnet", given, schedule, settings=None, augment=brighter)
    settings = FeatureCacheConfig(tmp_path, pictures="these", always=True)
    outcome, _ = train("mnist_convnet", given, schedule, settings=settings, augment=brighter)
    assert losses(outcome) == pytest.approx(losses(plainly), rel=1e-3)
    if count is None:
        # What is made anew in every epoch is not kept; validation pictures are.
        assert outcome.cache_stats["streamed"] >= 4 * 30 and outcome.cache_stats["computed"] == 10
    else:
        assert outcome.cache_stats["streamed"] == 0 and outcome.cache_stats["computed"] == 2 * 30 + 10
        again, _ = train("mnist_convnet", given, schedule, settings=settings, augment=brighter)
        assert losses(again) == losses(outcome) and again.prefix["computed"] == 0
        darker = train(
            "mnist_convnet", given, schedule, settings=settings, augment=lambda *x: brighter(x[0] / 2, *x[1:])
        )
        assert darker[0].prefix["computed"] == 60 and darker[0].prefix["found"] == 10


def test_what_does_not_fit_is_said_and_computed_anew(tmp_path):
    given, heard = pictures(channels=1), Listener()
    plainly, _ = train("mnist_convnet", given, SCHEDULE[1:2], settings=None)
    settings = FeatureCacheConfig(tmp_path, limit=1000, pictures="these", always=True)
    outcome, _ = train("mnist_convnet", given, SCHEDULE[1:2], settings=settings, reporter=heard)
    assert any(re.search(r"take \d[\d.]* [GMk]B or more, and --cache-size allows \d", text) for text in heard.said)
    assert outcome.cache_stats["computed"] == 0 and outcome.cache_stats["streamed"] >= 60
    assert losses(outcome) == pytest.approx(losses(plainly), rel=1e-3)


def test_a_tight_cache_keeps_sixteen_bits_a_number(tmp_path):
    given = pictures(channels=1)
    now = network("mnist_convnet", "last:1")
    cut = find_cut(now.logits_model)
    exact = phase_inputs(now, given, features(tmp_path / "a", given)).train(0, given.train)[0]
    made = features(tmp_path / "b", given, limit=int(40 * cut.floats * 2.5))
    close = phase_inputs(now, given, made).train(0, given.train)[0]
    assert made.stats.bytes == 40 * cut.floats * 2 and made.stats.numbers == "16-bit fixed point"
    for a, b in zip(exact, close, strict=True):
        assert 0 < np.abs(a - b).max() / np.abs(a).max() <= 1e-4


def test_a_broken_cache_folder_costs_speed_only(tmp_path):
    given, heard = pictures(channels=1), Listener()
    plainly, _ = train("mnist_convnet", given, SCHEDULE[:1], settings=None)
    (tmp_path / "file").touch()
    settings = FeatureCacheConfig(tmp_path / "file" / "features", pictures="these", always=True)
    outcome, _ = train("mnist_convnet", given, SCHEDULE[:1], settings=settings, reporter=heard)
    assert any("cannot be kept in" in text and "ZOO_CACHE" in text for text in heard.said)
    assert losses(outcome) == pytest.approx(losses(plainly), rel=1e-3)


def test_a_disk_that_fills_up_is_left_as_it_was(tmp_path, monkeypatch):
    given, heard = pictures(channels=1), Listener()
    plainly, _ = train("mnist_convnet", given, SCHEDULE[:2], settings=None)
    whole = store.FeatureSet.write
    calls = []

    def write(self, rows, values):
        calls.append(len(rows))
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        whole(self, rows, values)

    monkeypatch.setattr(store.FeatureSet, "write", write)
    settings = FeatureCacheConfig(tmp_path, pictures="these", always=True)
    outcome, _ = train("mnist_convnet", given, SCHEDULE[:2], settings=settings, reporter=heard)
    assert len([text for text in heard.said if "No space left" in text]) == 1 and list(tmp_path.iterdir()) == []
    assert outcome.cache_stats["computed"] == 0 and outcome.cache_stats["streamed"] > 0
    assert losses(outcome) == pytest.approx(losses(plainly), rel=1e-3)


def test_features_that_another_program_cuts_short_are_said_to_be(tmp_path):
    class Cutter(Listener):
        def say(self, text):
            if text.startswith("  epoch   1"):
                for path in tmp_path.glob("*/values"):
                    os.truncate(path, 1000)

    settings = FeatureCacheConfig(tmp_path, pictures="these", always=True)
    with pytest.raises(TrainingError, match=r"(?s)phase 'head' learns from could not be read: .*values.*command again"):
        train("mnist_convnet", pictures(channels=1), SCHEDULE, settings=settings, reporter=Cutter())
    whole, _ = train("mnist_convnet", pictures(channels=1), SCHEDULE, settings=settings)
    assert whole.prefix["computed"] == 40


# Keras fetches the first two batches itself, the others inside TensorFlow.
@pytest.mark.parametrize("first", [0, 4])
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ZeroDivisionError("a policy's own"), (ZeroDivisionError, "^a policy's own$")),
        (OSError(5, "Input/output error"), (TrainingError, r"could not be read: .*Input/output error")),
    ],
)
def test_what_a_batch_raises_is_told_in_its_own_words(first, error, told):
    calls = []

    def failing(images, labels, seeds):
        calls.append(len(images))
        if len(calls) > first:
            raise error
        return images, labels

    with pytest.raises(told[0], match=told[1]):
        train("mnist_convnet", pictures(channels=1), SCHEDULE, settings=None, augment=failing)
    assert len(calls) == first + 1


def test_a_set_that_was_half_removed_is_computed_anew(tmp_path):
    given = pictures(channels=1)
    settings = FeatureCacheConfig(tmp_path, pictures="these", always=True)
    first, _ = train("mnist_convnet", given, SCHEDULE[:1], settings=settings)
    (folder,) = tmp_path.iterdir()
    (folder / "values").unlink()
    second, _ = train("mnist_convnet", given, SCHEDULE[:1], settings=settings)
    assert second.prefix["computed"] == 40 and losses(second) == losses(first)


def test_what_an_interrupted_run_computed_is_found(tmp_path, monkeypatch):
    given = pictures(channels=1)
    now = network("mnist_convnet", "last:1")
    monkeypatch.setattr(feature_module, "FINISHED_TOGETHER", 10)
    monkeypatch.setattr(feature_module, "BATCH", 10)
    whole = feature_module.FrozenPart.__call__
    calls = []

    def call(self, pixels):
        calls.append(len(pixels))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(self, pixels)

    # The first call compares with Keras.
    monkeypatch.setattr(feature_module.FrozenPart, "__call__", call)
    with pytest.raises(KeyboardInterrupt):
        phase_inputs(now, given, features(tmp_path, given))
    monkeypatch.setattr(feature_module.FrozenPart, "__call__", whole)
    made = features(tmp_path, given)
    phase_inputs(now, given, made)
    assert made.stats.found == 20 and made.stats.computed == 20


def test_features_of_layers_that_a_phase_between_trains_are_computed_anew(tmp_path):
    """Those for the third phase, computed in the first, would be those of untrained weights."""
    given = pictures(channels=1)
    schedule = [
        Phase(name=train_, train=train_, epochs=1, learning_rate=1e-2)
        for train_ in ("head", "last:3", "last:1", "head")
    ]
    plainly, _ = train("mnist_convnet", given, schedule, settings=None)
    settings = FeatureCacheConfig(tmp_path, pictures="these", always=True)
    outcome, _ = train("mnist_convnet", given, schedule, settings=settings)
    assert losses(outcome) == pytest.approx(losses(plainly), rel=2e-3)
    assert outcome.cache_stats["computed"] >= 80


def test_growing_and_moving_statistics_are_the_same_with_it(tmp_path):
    """BatchNorm above the cut moves its statistics; what was grown before is below it."""
    given = pictures(size=(48, 48), count=60)
    moving = {"batch_norm": "update", "batch_norm_momentum": 0.5, "learning_rate": 1e-3, "optimizer": "sgd"}
    schedule = [Phase(name=f"stage {depth}", train="last:1", depth=depth, epochs=1, **moving) for depth in (1, 2, 3)]
    plainly, before = train("mobilenetv2_035", given, schedule, settings=None)
    settings = FeatureCacheConfig(tmp_path, pictures="these", always=True)
    outcome, after = train("mobilenetv2_035", given, schedule, settings=settings)
    assert losses(outcome) == pytest.approx(losses(plainly), rel=5e-3) and outcome.cache_stats["read"] > 0
    for a, b in zip(before, after, strict=True):
        assert np.abs(a - b).max() <= 0.05 * max(1e-3, np.abs(a).max())


def with_layer(layer):
    """Pixels -> a frozen layer of somebody's -> a trainable one."""
    keras = backend.start()
    pixels = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="conv")(pixels)
    x = layer(keras.layers.Reshape((36, 4))(x))
    model = keras.Model(pixels, keras.layers.Dense(2, name="logits")(keras.layers.Flatten()(x)))
    for frozen in model.layers[:-1]:
        frozen.trainable = False
    return model


def test_layers_that_draw_lots_within_are_not_constant():
    layers = backend.start().layers
    attention = layers.MultiHeadAttention(2, 4, dropout=0.5)
    for layer in (
        lambda x: attention(x, x),
        layers.LSTM(4, dropout=0.5, return_sequences=True),
        layers.TimeDistributed(layers.Dropout(0.5)),
        layers.GaussianNoise(1.0),
        layers.SpatialDropout1D(0.5),
    ):
        model = with_layer(layer)
        (tensor,) = find_cut(model).tensors
        assert tuple(tensor.shape[1:]) in ((6, 6, 4), (36, 4)), "the cut is below the layer"


def test_statistics_that_move_without_weights_are_not_constant():
    norm = backend.start().layers.BatchNormalization(center=False, scale=False)
    model = with_layer(norm)
    assert find_cut(model).tensors[0].shape[1:] == (144,)
    norm.trainable = True
    assert find_cut(model).tensors[0].shape[1:] in ((6, 6, 4), (36, 4))


def test_what_differs_in_training_and_tells_nobody_is_trained_in_one_piece(tmp_path):
    keras = backend.start()

    class Secret(keras.layers.Layer):
        def call(self, x, training=False):
            return x * 2 if training else x

    given = pictures(size=(8, 8))
    model = with_layer(Secret())
    cut = find_cut(model)
    unchanged = PhaseInputs(model, plain(given.array, given.targets), plain(given.array, given.targets))
    options = {"train": given.train, "val": given.val, "views": None, "online": False}
    made = features(tmp_path, given)
    assert made.inputs(model, cut, [], unchanged, **options) is unchanged
    assert made.stats.computed == 0


def test_features_that_nothing_names_for_good_are_found_by_nobody():
    """A function's or a foreign class's code may be another tomorrow; an array's printed form is cut short."""
    keras = backend.start()

    def digest(function, layer=True):
        pixels = keras.Input((40, 40, 3))
        x = keras.layers.Lambda(function)(pixels) if layer else function(pixels)
        model = keras.Model(pixels, keras.layers.Dense(2)(keras.layers.Flatten()(x)))
        return cut_module.digest(model, x)

    assert digest(lambda x: x * 2) != digest(lambda x: x * 2)
    mean = np.arange(40 * 40 * 3, dtype="float32").reshape(40, 40, 3)
    other = mean.copy()
    other[20, 20, 1] += 1
    same = digest(lambda x: x - mean, False)
    assert digest(lambda x: x - mean, False) == same != digest(lambda x: x - other, False)
    kept, changed = keras.ops.convert_to_tensor(mean), keras.ops.convert_to_tensor(other)
    assert digest(lambda x: x - kept, False) != digest(lambda x: x - changed, False)
    assert digest(keras.layers.ReLU(), False) != digest(keras.layers.ReLU(max_value=6), False)


def test_a_backend_without_accelerators_says_so_in_its_own_way(monkeypatch):
    keras = backend.start()

    def raising(kind=None):
        raise RuntimeError(f"Unknown backend: {kind!r} requested")

    monkeypatch.setattr(keras.distribution, "list_devices", raising)
    assert backend.has_accelerator() is False


def test_no_room_is_made_in_vain(tmp_path):
    rows = np.arange(10)
    cache = store.Cache(tmp_path, limit=10_000)
    (kept,) = cache.open([store.Wanted("a", 10, rows, (50,))])
    kept.write(rows, np.ones((10, 50), "float32"))
    kept.finish(rows)
    assert store.Cache(tmp_path, limit=10_000).open([store.Wanted("b", 10, rows, (5000,))]) is None
    (found,) = store.Cache(tmp_path, limit=10_000).open([store.Wanted("a", 10, rows, (50,))])
    assert len(found.missing(rows)) == 0


def test_other_sets_give_way_to_new_ones(tmp_path):
    given = pictures(channels=1)
    now = network("mnist_convnet", "last:1")
    size = 40 * find_cut(now.logits_model).floats * 4
    for name in ("a", "b", "c"):
        phase_inputs(now, given, features(tmp_path, given, pictures=name, limit=int(2.5 * size)))
    assert len(list(tmp_path.iterdir())) == 2
    for name, computed in (("c", 0), ("b", 0), ("a", 40)):
        made = features(tmp_path, given, pictures=name, limit=int(2.5 * size))
        phase_inputs(now, given, made)
        assert made.stats.computed == computed


def test_pictures_that_were_not_computed_are_never_read_as_nothing(tmp_path):
    given = pictures(channels=1)
    now = network("mnist_convnet", "last:1")
    half = dataclasses.replace(given, train=given.train[:10])
    made = phase_inputs(now, half, features(tmp_path, given))
    (read,), _ = made.validation(0, given.train[8:14])
    (whole,), _ = phase_inputs(now, given, features(tmp_path / "other", given)).validation(0, given.train[8:14])
    assert np.abs(read - whole).max() <= 1e-4 * np.abs(whole).max() and np.abs(read[-1]).max() > 0
    # Another split needs others: only those are computed.
    rest = features(tmp_path, given)
    phase_inputs(now, given, rest)
    assert rest.stats.computed == 20 and rest.stats.found == 20


def test_views_that_mix_labels_bring_them(tmp_path):
    given = pictures(channels=1)

    def mixed(images, labels, seeds):
        # The brightness that a picture has says which labels belong to it.
        share = np.linspace(0, 0.4, len(images), dtype="float32")[:, None]
        return np.full_like(images, 1) * share[..., None, None] * 500, labels * (1 - share) + share / 2

    now = network("mnist_convnet", "last:1")
    made = features(tmp_path, given)
    wanted = views.Views(given.array, given.train, given.targets, mixed, 2, 0)
    read, got = phase_inputs(now, given, made, views=wanted).train(3, given.train[:4])
    expected = {}
    for places, pixels, labels in wanted.generate():
        expected.update({int(place): (p, label) for place, p, label in zip(places, pixels, labels, strict=True)})
    chosen = [expected[int(place)] for place in wanted.place(3, given.train[:4])]
    assert np.array_equal(got, [label for _, label in chosen]) and len({label.tobytes() for _, label in chosen}) == 4
    lower = feature_module.FrozenPart(
        now.logits_model, find_cut(now.logits_model).tensors, given.array[:4].astype("float32")
    )
    (direct,) = lower(np.stack([p for p, _ in chosen]).astype("float32"))
    assert np.abs(read[0] - direct).max() <= 1e-4 * np.abs(direct).max()


def test_from_the_command(zoo, photos, tmp_path):
    arguments = ("finetune", "mnist_convnet", "--data", photos, "--size", 32, "--schedule", "head-only")
    folders = ("--runs", tmp_path / "runs", "--exported", tmp_path / "exported", "--epochs", 3)
    ran = zoo(*arguments, *folders, "--cache-size", "50MB")
    assert ran.code == 0, ran.err
    assert "frozen prefix: 60 pictures computed in" in ran.out and "were read 180 times" in ran.out
    (run,) = (tmp_path / "runs").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert record["prefix"]["computed"] == 60 and record["options"]["cache_size"] == 50_000_000
    ran = zoo(*arguments, *folders, "--cache-size", "50MB")
    assert "60 pictures, found computed" in ran.out
    ran = zoo(*arguments, *folders, "--cache-size", 0)
    assert ran.code == 0 and "frozen prefix" not in ran.out
    ran = zoo(*arguments, *folders, "--cache-size", "lots")
    assert ran.code == 2 and "such as 500MB, 8GB or 0" in ran.err
