"""Test that nothing warns in development mode, that eight threads agree, and that everything public travels."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

import zoo_runtime
from zoo_runtime import ImageSpec, ModelInfo, Predictor, Settings, check

STRICT = [sys.executable, "-X", "dev", "-W", "error"]
# Not only errors, but also warnings about files that stay open, which Python prints when it deletes an object.
PROGRAM = """
import gc, pathlib, pickle, sys
from zoo_runtime import PictureError, Predictor, check, decode, list_pictures
model, folder = sys.argv[1:]
predictor = Predictor(model, threads=2, drift=True)
paths = list_pictures(folder)
good = [path for path in paths if "damaged" not in path]
predictor(good[0]), predictor(good * 4), list(predictor.predict_each(iter(paths)))
dict(predictor.predict_folder(folder))
predictor(pathlib.Path(good[0]).read_bytes())
with open(good[0], "rb") as stream:
    predictor(stream)
for data in (b"", b"nonsense", pathlib.Path(good[0]).read_bytes()[:700]):
    try:
        predictor(data)
    except PictureError:
        pass
check(predictor), pickle.loads(pickle.dumps(predictor))(good[0])
del predictor
gc.collect()
print("done")
"""


def test_a_program_in_development_mode(model, pictures):
    ran = subprocess.run([*STRICT, "-c", PROGRAM, str(model), str(pictures)], capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("done\n", "")


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "{model}", "{folder}/red.jpg", "{folder}/more"],
        ["predict", "{model}", "{folder}", "--json"],
        ["info", "{model}"],
        ["info", "{model}", "--json"],
        ["check", "{model}"],
        ["tune", "--help"],
        ["bench", "{model}", "{folder}/red.jpg", "--seconds", "0.05", "--json"],
        ["drift", "{model}", "{folder}"],
    ],
    ids=lambda words: " ".join(word for word in words if "{" not in word),
)
def test_commands_in_development_mode(model, pictures, words):
    names = {"model": str(model), "folder": str(pictures)}
    command = [*STRICT, "-m", "zoo_runtime.cli", *(word.format(**names) for word in words)]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode in (0, 1), ran.stderr
    assert "Warning" not in ran.stderr and "Traceback" not in ran.stderr, ran.stderr


def test_eight_threads_share_a_predictor(model, pictures):
    """Single pictures, lists and folders at the same time give what they give alone."""
    predictor = Predictor(model, threads=2)
    path = pictures / "red.jpg"
    good = [path, pictures / "green.JPG"] * 10
    alone = predictor(path), predictor(good), list(map(str, dict(predictor.predict_folder(pictures))))

    def work(_: int) -> tuple[object, ...]:
        return predictor(path), predictor(good), list(map(str, dict(predictor.predict_folder(pictures))))

    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(work, range(24)):
            assert found == alone


def test_everything_public_is_pickled_and_copied(model, pictures):
    predictor = Predictor(model)
    info: ModelInfo = predictor.info
    answer = predictor(pictures / "red.jpg")
    result = check(predictor)
    errors = [
        getattr(zoo_runtime, name)("a message")
        for name in zoo_runtime.__all__
        if isinstance(getattr(zoo_runtime, name), type) and issubclass(getattr(zoo_runtime, name), Exception)
    ]
    assert len(errors) >= 16
    for value in (info, answer, result, ImageSpec((3, 4)), Settings(threads=2), *errors):
        for again in (pickle.loads(pickle.dumps(value)), copy.copy(value), copy.deepcopy(value)):
            assert type(again) is type(value) and str(again) == str(value)
            assert isinstance(value, Exception) or again == value
