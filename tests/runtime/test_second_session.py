"""Test predictors that are pickled, copied, forked and used in other processes."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from zoo_runtime import (
    CorruptPicture,
    ModelNotFound,
    PictureTooLarge,
    Prediction,
    Predictor,
    Settings,
)

RED = np.full((30, 40, 3), (250, 0, 0), np.uint8)
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork there")


def test_a_pickled_predictor_opens_its_file_again(model, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(model.parent)
    predictor = Predictor("model.onnx", threads=2, spinning=False, max_pixels=5000)
    content = pickle.dumps(predictor)
    assert model.read_bytes()[:500] not in content, "the file itself is not pickled"
    monkeypatch.chdir(tmp_path)
    for again in (pickle.loads(content), pickle.loads(pickle.dumps(pickle.loads(content)))):
        assert again(RED) == predictor(RED) and again.info == predictor.info
        assert again.settings == Settings(2, False) and again([RED] * 20) == predictor([RED] * 20)
        with pytest.raises(PictureTooLarge):
            again(np.zeros((100, 51, 3), np.uint8))


def test_a_pickled_predictor_of_bytes_needs_no_file(model_bytes):
    predictor = Predictor(model_bytes)
    predictor([RED] * 20)
    again = pickle.loads(pickle.dumps(predictor))
    assert again(RED) == predictor(RED) and again([RED] * 20) == [predictor(RED)] * 20


def test_a_pickled_predictor_refuses_another_file(model, graph, info):
    import dataclasses

    content = pickle.dumps(Predictor(model))
    kept = model.read_bytes()
    model.write_bytes(graph(dataclasses.replace(info, classes=("blue", "green", "red")).to_metadata()))
    with pytest.raises(ModelNotFound, match="has changed since this predictor was made"):
        pickle.loads(content)(RED)
    model.unlink()
    with pytest.raises(ModelNotFound, match="opens its file again at the path where it was"):
        pickle.loads(content)(RED)
    model.write_bytes(kept)
    assert pickle.loads(content)(RED).label == "red"


def test_copies(model):
    predictor = Predictor(model, max_pixels=5000)
    predictor.note = ["mine"]
    for other in (copy.copy(predictor), copy.deepcopy(predictor)):
        assert other(RED) == predictor(RED) and other.info == predictor.info
        with pytest.raises(PictureTooLarge):
            other(np.zeros((100, 51, 3), np.uint8))
    assert copy.deepcopy(predictor).note is not predictor.note
    model.unlink()
    assert copy.deepcopy(predictor)(RED).label == "red", "a copy needs no file"


def test_predictions_and_errors_travel(model, pictures):
    prediction = Predictor(model)(RED)
    assert pickle.loads(pickle.dumps(prediction)) == copy.deepcopy(prediction) == prediction
    assert isinstance(prediction, Prediction)
    with pytest.raises(CorruptPicture) as caught:
        Predictor(model)(pictures / "damaged.jpg")
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is CorruptPicture and str(again) == str(caught.value)


@pytest.mark.parametrize("method", sorted({"fork", "spawn"} & set(multiprocessing.get_all_start_methods())))
def test_a_pool_of_processes(model, pictures, method):
    predictor = Predictor(model, threads=4)
    predictor([RED] * 20)
    paths = [pictures / "red.jpg", pictures / "green.JPG", pictures / "more" / "blue.jpeg"] * 2
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        assert list(pool.map(predictor, paths, timeout=60)) == predictor(paths)
        with pytest.raises(CorruptPicture, match=r"damaged\.jpg"):
            pool.submit(predictor, pictures / "damaged.jpg").result(60)
        lists = pool.submit(predictor, [RED] * 20).result(60)
    assert lists == predictor([RED] * 20)


FORK = """
import gc, os, sys, threading
import numpy as np
from zoo_runtime import Predictor

predictor = Predictor(sys.argv[1], threads=int(sys.argv[2]))
red = np.full((30, 40, 3), (250, 0, 0), np.uint8)
expected = predictor(red), predictor([red] * 20)
if sys.argv[3] == "gone":
    os.remove(sys.argv[1])
predictor._network._lock.acquire()  # as another thread may hold it
child = os.fork()
if child == 0:
    if sys.argv[3] != "unused":
        assert (predictor(red), predictor([red] * 20)) == expected
        assert [r.label for r in predictor.predict_each(iter([red] * 20))] == ["red"] * 20
    if sys.argv[3] == "deleted":
        del predictor
        gc.collect()
    print("right", flush=True)
    sys.exit(0)
predictor._network._lock.release()
assert os.waitpid(child, 0)[1] == 0
assert (predictor(red), predictor([red] * 20)) == expected
"""


@forks
@pytest.mark.parametrize(("threads", "what"), [(1, "used"), (4, "unused"), (4, "deleted"), (4, "gone")])
def test_a_forked_process_answers_and_ends(model, threads, what):
    """The threads of ONNX Runtime do not exist there, so that deleting its session would hang or crash."""
    command = [sys.executable, "-c", FORK, str(model), str(threads), what]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (0, "right\n"), ran.stderr


def test_a_predictor_that_is_deleted_leaves_nothing(model):
    import weakref

    predictor = Predictor(model)
    network = weakref.ref(predictor._network)
    del predictor
    gc.collect()
    assert network() is None
