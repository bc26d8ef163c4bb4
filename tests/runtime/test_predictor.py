"""Test `Predictor`: labels, order, errors between answers, and files that it must refuse."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from PIL import Image

from zoo_runtime import (
    CorruptModel,
    CorruptPicture,
    ImageSpec,
    ModelInfo,
    ModelNotFound,
    NotAnExport,
    NotAPicture,
    PictureError,
    PictureNotFound,
    PictureTooLarge,
    Predictor,
    ProviderNotStarted,
    Settings,
    UnknownSchema,
    UnknownTask,
    UnsafeModel,
    UnsupportedPicture,
    list_pictures,
)
from zoo_runtime.workshop import INPUT, OUTPUT


def expected(pixels: np.ndarray) -> np.ndarray:
    """Compute the tiny network with numpy: (H, W, 3) -> three probabilities."""
    logits = 0.02 * pixels.reshape(-1, 3).astype(np.float64).mean(0)
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def plain(*colour: int) -> np.ndarray:
    return np.full((30, 40, 3), colour, np.uint8)


# One and many


def test_one_picture(model):
    result = Predictor(model)(plain(250, 60, 20))
    assert result.label == "red"
    assert list(result.probabilities) == ["red", "green", "blue"]
    np.testing.assert_allclose(list(result.probabilities.values()), expected(plain(250, 60, 20)), atol=1e-5)
    assert result.confidence == result.probabilities["red"] == pytest.approx(0.9686, abs=1e-4)
    assert [name for name, _ in result.top(2)] == ["red", "green"]
    assert result.top(9) == result.top(3)


def test_probabilities_are_plain_numbers(model):
    result = Predictor(model)(plain(250, 60, 20))
    assert json.loads(json.dumps(vars(result)))["label"] == "red"


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_list_gives_a_list_in_order(model, kind):
    results = Predictor(model)(kind([plain(0, 0, 250), plain(250, 0, 0), plain(0, 250, 0)]))
    assert [result.label for result in results] == ["blue", "red", "green"]
    assert Predictor(model)([]) == []


def test_a_list_with_a_bad_one_raises_its_error(model):
    with pytest.raises(NotAPicture, match="empty"):
        Predictor(model)([plain(250, 0, 0), b"", b"text"])


def test_predict_each_goes_on_after_a_bad_one(model, pictures):
    sources = [pictures / "red.jpg", b"nonsense", pictures / "gone.jpg", plain(0, 250, 0), pictures / "damaged.jpg"]
    results = list(Predictor(model).predict_each(sources, batch_size=2))
    assert [type(result).__name__ for result in results] == [
        "Prediction",
        "NotAPicture",
        "PictureNotFound",
        "Prediction",
        "CorruptPicture",
    ]
    assert [results[0].label, results[3].label] == ["red", "green"]
    assert str(pictures / "gone.jpg") in str(results[2])


@pytest.mark.parametrize("batch_size", [1, 3, 8, 100])
def test_batches_do_not_change_the_answers(model, batch_size):
    levels = np.random.default_rng(0).integers(0, 256, (11, 3))
    sources = [plain(*level) for level in levels]
    results = list(Predictor(model).predict_each(iter(sources), batch_size=batch_size))
    for source, result in zip(sources, results, strict=True):
        np.testing.assert_allclose(list(result.probabilities.values()), expected(source), atol=1e-5)


def test_a_batch_of_bad_pictures_alone(model):
    results = list(Predictor(model).predict_each([b"a", b"b"], batch_size=2))
    assert [type(result) for result in results] == [NotAPicture, NotAPicture]


def test_predict_each_reads_no_further_than_it_is_asked(model):
    """An endless stream, such as a camera's, must give its first answer."""
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield plain(250, 0, 0)

    answers = Predictor(model).predict_each(endless(), batch_size=4)
    assert next(answers).label == "red"
    assert taken == 4
    answers.close()


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_of_none_is_refused(model, batch_size):
    """Otherwise it would end at once, without an answer and without an error."""
    with pytest.raises(ValueError, match=f"Received: {batch_size}"):
        list(Predictor(model).predict_each([plain(0, 0, 0)], batch_size=batch_size))


def test_a_list_is_shared_out_with_the_answers_of_one_by_one(model, pictures):
    levels = np.random.default_rng(2).integers(0, 256, (60, 3))
    sources: list = [plain(*level) for level in levels]
    sources[7], sources[33], sources[59] = b"nonsense", pictures / "gone.jpg", pictures / "damaged.jpg"
    one_by_one = list(Predictor(model, threads=1).predict_each(iter(sources)))
    for threads in (1, 2, 5):
        shared = list(Predictor(model, threads=threads).predict_each(sources, batch_size=4))
        assert [type(result) for result in shared] == [type(result) for result in one_by_one]
        for ours, theirs in zip(shared, one_by_one, strict=True):
            if isinstance(theirs, PictureError):
                assert str(ours) == str(theirs)
            else:
                np.testing.assert_allclose(
                    list(ours.probabilities.values()), list(theirs.probabilities.values()), atol=1e-6
                )


def test_a_list_is_not_decoded_far_ahead_of_its_answers(model):
    """Otherwise answers that nobody takes would fill the memory."""
    asked = []

    class Spy(Predictor):
        def decode(self, source):
            asked.append(source)
            return super().decode(plain(*([source % 256] * 3)))

    answers = Spy(model, threads=2).predict_each(list(range(400)), batch_size=4)
    next(answers)
    time.sleep(0.3)
    assert len(asked) <= 5 * 4
    answers.close()
    assert len(asked) <= 5 * 4


def test_a_file_that_is_replaced_does_not_answer_for_the_one_before(model, graph, info):
    """The second session, on which a list is shared out, is opened at the first list."""
    predictor = Predictor(model, threads=2)
    swapped = dataclasses.replace(info, classes=("blue", "green", "red"))
    (model.parent / "new").write_bytes(graph(swapped.to_metadata()))
    os.replace(model.parent / "new", model)
    assert {result.label for result in predictor([plain(250, 0, 0)] * 20)} == {"red"}
    assert Predictor(model)(plain(250, 0, 0)).label == "blue"
    os.remove(model)
    assert {result.label for result in predictor([plain(250, 0, 0)] * 20)} == {"red"}


# Folders


def test_predict_folder(model, pictures):
    results = dict(Predictor(model).predict_folder(pictures))
    assert list(results) == sorted(
        str(pictures / name) for name in ("red.jpg", "green.JPG", "more/blue.jpeg", "damaged.jpg")
    )
    assert results[str(pictures / "more/blue.jpeg")].label == "blue"
    assert isinstance(results[str(pictures / "damaged.jpg")], CorruptPicture)


def test_list_pictures_takes_bytes_and_paths(pictures):
    assert list_pictures(os.fsencode(pictures)) == list_pictures(pictures) == list_pictures(str(pictures))


def test_no_such_folder(model, tmp_path):
    with pytest.raises(PictureNotFound, match="gone"):
        list(Predictor(model).predict_folder(tmp_path / "gone"))
    with pytest.raises(PictureNotFound):
        list_pictures(__file__)


@pytest.mark.skipif(os.name == "nt", reason="permissions work otherwise there")
def test_a_folder_that_may_not_be_read_is_not_left_out_silently(open_pictures, unprivileged):
    (open_pictures / "more").chmod(0)
    refused = []
    with unprivileged():
        with pytest.raises(PictureNotFound, match="more' cannot be read: Permission denied"):
            list_pictures(open_pictures)
        listed = list_pictures(open_pictures, lambda path, error: refused.append((path, type(error))))
    assert refused == [(str(open_pictures / "more"), PictureNotFound)]
    assert [os.path.basename(path) for path in listed] == ["damaged.jpg", "green.JPG", "red.jpg"]


# Loading


def test_file_folder_bytes_and_threads_agree(model):
    answers = [
        Predictor(given, **options)(plain(90, 200, 30)).probabilities
        for given in (model, str(model), os.fsencode(model.parent).decode(), model.parent, model.read_bytes())
        for options in ({}, {"threads": 1}, {"threads": 2})
    ]
    assert all(answer == answers[0] for answer in answers)


def test_a_file_whose_name_is_not_utf_8(model):
    folder = os.fsencode(model.parent) + b"/caf\xe9"
    try:
        os.mkdir(folder)
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    os.rename(model, folder + b"/model.onnx")
    assert Predictor(Path(os.fsdecode(folder)))(plain(250, 0, 0)).label == "red"


@pytest.mark.parametrize("threads", [0, -3])
def test_threads_below_one_are_refused(model, threads):
    with pytest.raises(ValueError, match=f"Received: {threads}"):
        Predictor(model, threads=threads)


@pytest.mark.parametrize("providers", [["cpu"], ["CPUExecutionProvider"], [("cpu", {})], ["CPU"]])
def test_providers_by_name(model, providers):
    predictor = Predictor(model, providers=providers)
    assert predictor(plain(0, 250, 0)).label == "green"
    assert predictor.settings.providers == ("cpu",)


def test_a_provider_that_is_not_there_is_refused_with_those_that_are(model):
    with pytest.raises(ValueError, match=r"has: .*cpu.*Received: 'tensorrt'"):
        Predictor(model, providers=["tensorrt"])
    with pytest.raises(ValueError, match="at least one name"):
        Predictor(model, providers=[])
    with pytest.raises(ValueError, match="a list of names"):
        Predictor(model, providers="cpu")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_cannot_start_is_an_error_unless_the_processor_is_named_too(model, monkeypatch):
    """An onnxruntime built for CUDA goes on silently on a machine without CUDA."""
    built = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: built)
    with pytest.raises(ProviderNotStarted, match="cuda could not be started"):
        Predictor(model, providers=["cuda"])
    with pytest.warns(UserWarning, match="continuing without it"):
        predictor = Predictor(model, providers=["cuda", "cpu"])
    assert predictor(plain(0, 0, 250)).label == "blue"
    assert [result.label for result in predictor([plain(0, 0, 250), plain(0, 250, 0)] * 20)] == ["blue", "green"] * 20
    with pytest.raises(CorruptModel):
        Predictor(b"\x08garbage", providers=["cuda", "cpu"])


def test_settings_are_checked_and_kept(model):
    predictor = Predictor(model, threads=2, spinning=False, arena=False)
    assert predictor.settings == Settings(2, False, False, ("cpu",))
    assert predictor(plain(0, 250, 0)).label == "green"
    with pytest.raises(ValueError, match="Received: 257"):
        Settings(threads=257)


def test_one_predictor_in_many_threads(model):
    predictor = Predictor(model, threads=1)
    levels = np.random.default_rng(1).integers(0, 256, (40, 3))
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda level: predictor(plain(*level)), levels))
    for level, result in zip(levels, results, strict=True):
        np.testing.assert_allclose(list(result.probabilities.values()), expected(plain(*level)), atol=1e-5)


def test_max_pixels_holds_for_every_picture(model):
    predictor = Predictor(model, max_pixels=30 * 40)
    assert predictor(plain(250, 0, 0)).label == "red"
    with pytest.raises(PictureTooLarge):
        predictor(np.zeros((31, 40, 3), np.uint8))


def test_decode_and_probabilities_are_the_two_halves(model):
    predictor = Predictor(model)
    pixels = predictor.decode(plain(10, 20, 30))
    assert pixels.shape == (24, 32, 3) and pixels.dtype == np.uint8
    rows = predictor.probabilities(np.stack([pixels, pixels]))
    assert rows.shape == (2, 3) and rows.dtype == np.float32
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-6)


def test_a_batch_array_is_not_mistaken_for_pictures(model):
    with pytest.raises(UnsupportedPicture, match=r"\(2, 30, 40, 3\)"):
        Predictor(model)(np.zeros((2, 30, 40, 3), np.uint8))


def test_a_grey_network_is_given_one_channel(graph):
    info = ModelInfo(("dark", "light"), "binary", ImageSpec((24, 32), channels=1))
    result = Predictor(graph(info.to_metadata(), channels=1, classes=2))(plain(200, 200, 200))
    assert result.probabilities["dark"] == pytest.approx(1 / (1 + np.exp(-0.02 * 200)), abs=1e-5)


def test_info_is_what_was_written(model, info):
    assert Predictor(model).info == info
    assert ModelInfo.from_metadata(info.to_metadata()) == info
    assert (INPUT, OUTPUT) == ("image", "probabilities")


# Files that are refused


def test_no_such_file(tmp_path):
    for given in (tmp_path / "gone.onnx", "nul\0byte"):
        with pytest.raises(ModelNotFound, match="cannot be read"):
            Predictor(given)


@pytest.mark.parametrize("content", [b"", b"garbage that is no protobuf", bytes(1000)])
def test_garbage(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    for given in (path, content):
        with pytest.raises((CorruptModel, NotAnExport)):
            Predictor(given)


def test_a_truncated_file(model_bytes):
    for end in range(100, len(model_bytes), len(model_bytes) // 20):
        with pytest.raises((CorruptModel, NotAnExport)):
            Predictor(model_bytes[:end])


def test_an_onnx_file_of_somebody_else(graph):
    with pytest.raises(NotAnExport, match="not exported by zoo"):
        Predictor(graph({"author": "somebody"}, names=("input", "output")))
    with pytest.raises(NotAnExport, match="has probably removed the metadata"):
        Predictor(graph({"author": "somebody"}))


@pytest.mark.parametrize("schema", ["4", "0", '"1"', "null"])
def test_unknown_schema(graph, info, schema):
    with pytest.raises(UnknownSchema, match="reads schemas 1 to 3"):
        Predictor(graph({**info.to_metadata(), "zoo.schema": schema}))


@pytest.mark.parametrize("task", ['"several"', '"regression"', "null", "[]"])
def test_unknown_task(graph, info, task):
    with pytest.raises(UnknownTask, match="binary, multiclass"):
        Predictor(graph({**info.to_metadata(), "zoo.task": task}))


@pytest.mark.parametrize(
    "key, text",
    [
        ("zoo.classes", '["red", "green", "red"]'),
        ("zoo.classes", '["red"]'),
        ("zoo.classes", "[1, 2, 3]"),
        ("zoo.classes", '"rgb"'),
        ("zoo.classes", '{"red": 0, "green": 1, "blue": 2}'),
        ("zoo.classes", "null"),
        ("zoo.classes", "[not json"),
        ("zoo.image", '{"size": [24]}'),
        ("zoo.image", '{"size": 24}'),
        ("zoo.image", '{"size": [24, 32], "resize": "stretch"}'),
        ("zoo.image", '{"size": [24, 32], "sharpen": true}'),
        ("zoo.image", '{"size": [24, 32], "fraction": NaN}'),
        ("zoo.image", "[]"),
        ("zoo.metrics", "[1, 2]"),
        ("zoo.selftest", "[]"),
        ("zoo.selftest", "[" * 100_000),
    ],
)
def test_invalid_metadata(graph, info, key, text):
    """The metadata themselves are refused, even if the graph does not contradict them."""
    with pytest.raises(CorruptModel, match=r"metadata (entry zoo\.\w+ is not JSON|lack|are invalid)"):
        Predictor(graph({**info.to_metadata(), key: text}))


@pytest.mark.parametrize("key", ["zoo.classes", "zoo.image"])
def test_metadata_with_a_hole(graph, info, key):
    metadata = info.to_metadata()
    del metadata[key]
    with pytest.raises(CorruptModel, match=key.removeprefix("zoo.")):
        Predictor(graph(metadata))


def test_metadata_that_are_not_utf_8(model_bytes):
    assert model_bytes.count(b'"red"') == 1
    with pytest.raises(CorruptModel, match="UTF-8"):
        Predictor(model_bytes.replace(b'"red"', b'"\xffed"'))


@pytest.mark.parametrize(
    "disagreement",
    [
        {"size": (32, 24)},
        {"channels": 1},
        {"classes": 2},
        {"pixel_type": TensorProto.FLOAT},
        {"names": ("input", "probabilities")},
        {"names": ("image", "output")},
        {"batch": 1},
    ],
    ids=lambda value: next(iter(value)),
)
def test_a_graph_that_is_not_what_its_metadata_say(graph, info, disagreement):
    with pytest.raises(CorruptModel, match="graph"):
        Predictor(graph(info.to_metadata(), **disagreement))


@pytest.mark.parametrize("location", ["../secret.bin", "{folder}/secret.bin"], ids=["relative", "absolute"])
def test_a_file_cannot_make_the_runtime_read_other_files(graph, info, tmp_path, location):
    """ONNX Runtime up to 1.23 reads any file that a graph names as the place of its weights.

    `test_hostile_models.py` has the other places in a file that can name one.
    """
    (tmp_path / "secret.bin").write_bytes(np.eye(3, dtype=np.float32).tobytes())
    content = graph(info.to_metadata(), weights_in=location.format(folder=tmp_path))
    (tmp_path / "shown").mkdir()
    (tmp_path / "shown" / "model.onnx").write_bytes(content)
    for given in (tmp_path / "shown", content):
        with pytest.raises(UnsafeModel, match="external data"):
            Predictor(given)


def test_a_picture_object_is_left_open(model):
    out = io.BytesIO()
    Image.fromarray(plain(250, 0, 0)).save(out, "PNG")
    out.seek(0)
    assert Predictor(model)(out).label == "red"
    assert not out.closed


def test_one_picture_is_not_taken_for_many(model):
    """Otherwise each row of an array, or each letter of a path, would count as a picture."""
    predictor = Predictor(model)
    frame = np.zeros((24, 32, 3), np.uint8)
    for source in ("red.jpg", b"red", frame, frame[..., 0]):
        with pytest.raises(TypeError, match="call the predictor itself"):
            predictor.predict_each(source)
    assert len(list(predictor.predict_each(np.stack([frame] * 3)))) == 3
