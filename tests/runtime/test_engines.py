"""Test that files for LiteRT and OpenVINO do what an ONNX file does, and what is said where an engine is missing."""

from __future__ import annotations

import copy
import dataclasses
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
from conftest import CLASSES, SHARPNESS, _jpeg
from engine_files import openvino_ir, tflite

import zoo_runtime
import zoo_runtime._tune
from zoo_runtime import (
    BadSignature,
    CorruptModel,
    EngineNotInstalled,
    ModelNotFound,
    NotAnExport,
    NotUpdated,
    Predictor,
    ProviderNotStarted,
    check,
    rollback,
    update,
)
from zoo_runtime.cli import main
from zoo_runtime.workshop import record

RED = np.full((30, 40, 3), (250, 0, 0), np.uint8)
ENGINES = ("litert", "openvino")


@pytest.fixture(params=ENGINES)
def exported(request, tmp_path, info, graph):
    """Return the path of the tiny network for an engine, in a folder of its own. Skip where the engine is missing."""
    return make(request.param, tmp_path / f"tiny-{request.param}", info, graph)


def make(engine, folder, info, graph):
    if engine == "litert":
        pytest.importorskip("ai_edge_litert", reason="needs LiteRT: pip install 'finezoo-runtime[litert]'")
        folder.mkdir()
        (folder / "model.tflite").write_bytes(tflite(info, SHARPNESS))
        return folder / "model.tflite"
    pytest.importorskip("openvino", reason="needs OpenVINO: pip install 'finezoo-runtime[openvino]'")
    return openvino_ir(folder, graph({}), info.to_metadata())


def openvino_of_run(folder, info, graph, seed):
    """Write an OpenVINO model with other weights for each seed, and its own self-test. Return its path."""
    pytest.importorskip("openvino", reason="needs OpenVINO: pip install 'finezoo-runtime[openvino]'")
    content = graph(info.to_metadata(), sharpness=(1 + seed / 8) * SHARPNESS)
    selftest = record(Predictor(content), [_jpeg((200, 10, 10)), _jpeg((10, 90, 200))])
    own = dataclasses.replace(info, run={"seed": seed}, selftest=selftest)
    return openvino_ir(folder, content, own.to_metadata())


def run(arguments, capsys):
    code = main([str(argument) for argument in arguments])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_the_answers_are_those_of_the_onnx_file(exported, model_bytes, pictures):
    expected, predictor = Predictor(model_bytes), Predictor(exported)
    assert predictor.engine == exported.parent.name.removeprefix("tiny-") and predictor.info.classes == CLASSES
    pixels = np.random.default_rng(0).integers(0, 256, (5, 24, 32, 3), np.uint8)
    assert abs(predictor.probabilities(pixels) - expected.probabilities(pixels)).max() < 1e-6
    for given in (exported, exported.parent):
        assert Predictor(given)(pictures / "red.jpg").label == "red"
    found = {os.path.basename(path): str(answer) for path, answer in predictor.predict_folder(pictures)}
    assert found.keys() == {"red.jpg", "green.JPG", "blue.jpeg", "damaged.jpg"} and "Truncated" in found["damaged.jpg"]


def test_the_self_test_compares_with_the_exporting_machine(exported, capsys):
    result = check(Predictor(exported))
    assert result.passed and result.pixels_equal and result.probability_difference < 1e-6
    engine = exported.parent.name.removeprefix("tiny-")
    assert result.device[engine][0].isdigit() and "onnxruntime" not in result.device
    code, out, _ = run(["check", exported.parent], capsys)
    assert code == 0 and out.endswith("passed\n") and engine in out


def test_a_recorded_self_test_names_the_engine(exported, info):
    import base64

    jpeg = base64.b64decode(info.selftest["pictures"][0]["jpeg"])
    recorded = record(Predictor(exported), [jpeg])
    assert exported.parent.name.removeprefix("tiny-") in recorded["versions"]
    assert np.allclose(
        recorded["pictures"][0]["probabilities"], info.selftest["pictures"][0]["probabilities"], atol=1e-6
    )


def test_a_wrong_network_fails_the_self_test(tmp_path, info, graph, capsys):
    pytest.importorskip("ai_edge_litert")
    (tmp_path / "model.tflite").write_bytes(tflite(info, SHARPNESS * 1.2))
    code, out, _ = run(["check", tmp_path], capsys)
    assert code == 1 and "FAILED" in out


def test_many_threads_share_a_predictor(exported):
    predictor = Predictor(exported, threads=3)
    colors = [np.full((30, 40, 3), np.eye(3)[i % 3] * 250, np.uint8) for i in range(60)]
    labels = [CLASSES[i % 3] for i in range(60)]
    assert [answer.label for answer in predictor(colors)] == labels
    with ThreadPoolExecutor(4) as pool:
        assert [answer.label for answer in pool.map(predictor, colors)] == labels


def test_copies_and_other_processes(exported):
    predictor = Predictor(exported, threads=2)
    expected = predictor(RED)
    for other in (copy.deepcopy(predictor), pickle.loads(pickle.dumps(predictor))):
        assert other(RED) == expected and other.engine == predictor.engine
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(predictor, RED).result(60) == expected


FORK = """
import os, sys
import numpy as np
from zoo_runtime import Predictor

predictor = Predictor(sys.argv[1], threads=2)
red = np.full((30, 40, 3), (250, 0, 0), np.uint8)
expected = predictor(red), predictor([red] * 20)
child = os.fork()
if child == 0:
    assert (predictor(red), predictor([red] * 20)) == expected
    print("right", flush=True)
    sys.exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
assert predictor(red) == expected[0]
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not fork by default")
def test_a_forked_process_answers_and_ends(exported):
    ran = subprocess.run([sys.executable, "-c", FORK, exported], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (0, "right\n"), ran.stderr


def test_a_changed_file_is_refused_after_unpickling(exported, info, graph):
    content = pickle.dumps(Predictor(exported))
    other = dataclasses.replace(info, classes=("blue", "green", "red"))
    if exported.suffix == ".tflite":
        exported.write_bytes(tflite(other, SHARPNESS))
    else:
        openvino_ir(exported.parent, graph({}), other.to_metadata())
    with pytest.raises(ModelNotFound, match="has changed since this predictor was made"):
        pickle.loads(content)(RED)


def test_the_commands(exported, pictures, capsys):
    code, out, err = run(["predict", exported.parent, pictures / "red.jpg", "--threads", "1"], capsys)
    assert code == 0 and out.startswith(f"{pictures / 'red.jpg'}: red ") and not err
    title = {"litert": "LiteRT", "openvino": "OpenVINO"}[exported.parent.name.removeprefix("tiny-")]
    code, out, _ = run(["info", exported], capsys)
    assert code == 0 and f"engine        {title} " in out
    code, out, _ = run(["tune", exported, "--seconds", "0.01"], capsys)
    assert code == 0 and "spinning" not in out and "default threads" in out
    tuned = exported.with_name(exported.name + ".tuned.json")
    assert json.loads(tuned.read_text())["settings"]["providers"] == ["cpu"]
    assert Predictor(exported).settings == zoo_runtime.Settings(**json.loads(tuned.read_text())["settings"])


def test_bench_compares_engines(tmp_path, info, graph, model, capsys):
    exported = make("litert", tmp_path / "tiny-litert", info, graph)
    code, out, _ = run(["bench", model, exported, "--compare", "--json"], capsys)
    result = json.loads(out)
    assert code == 0 and result["same_classes"] and result["equal_labels"] == result["pictures"] == 2
    assert result["network"]["first"] > 0 and result["network"]["second"] > 0


def test_tune_compares_the_files_of_one_network(tmp_path, model_bytes, info, graph, monkeypatch, capsys):
    for engine in ENGINES:
        # As exports state it.
        of_format = dataclasses.replace(info, precision={"kind": engine, "graph": "float32"})
        make(engine, tmp_path / f"tiny-{engine}", of_format, graph)
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "model.onnx").write_bytes(model_bytes)
    (tmp_path / "tiny-int8").mkdir()
    (tmp_path / "tiny-int8" / "model.onnx").write_bytes(model_bytes)
    rounded = dataclasses.replace(info, precision={"kind": "openvino-int8", "graph": "int8"})
    openvino_ir(tmp_path / "tiny-litert-openvino", graph({}), rounded.to_metadata())
    code, out, _ = run(["tune", tmp_path / "tiny", "--seconds", "0.01", "--json"], capsys)
    result = json.loads(out)
    beside = result["beside"]
    assert code == 0
    assert [row["engine"] for row in beside["files"]] == ["onnxruntime", "litert", "openvino"]
    assert list(beside["left_out"]) == [str(tmp_path / "tiny-litert-openvino" / "model.xml")]
    fastest = min(beside["files"], key=lambda row: row["p50"])
    assert beside["fastest"] in (fastest["model"], beside["files"][0]["model"])
    assert (tmp_path / "tiny-litert" / "model.tflite.tuned.json").is_file()
    beside["fastest"] = beside["files"][2]["model"]
    monkeypatch.setattr(zoo_runtime._tune, "tune", lambda *_, **__: result)
    code, out, err = run(["tune", tmp_path / "tiny"], capsys)
    assert code == 0 and "the same network on other engines" in out and "times as fast" in out
    assert "it is from another run, or has other classes" in err


def test_a_missing_engine_is_named_with_its_installation(exported, monkeypatch, capsys):
    engine = exported.parent.name.removeprefix("tiny-")
    package = {"litert": "ai_edge_litert", "openvino": "openvino"}[engine]
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EngineNotInstalled, match=rf"is not installed\. Run `.*install 'finezoo-runtime\[{engine}\]'`"):
        Predictor(exported)
    code, _, err = run(["predict", exported, "cat.jpg"], capsys)
    assert code == 1 and "is not installed" in err and "Traceback" not in err


def test_a_folder_with_several_files_needs_a_choice(exported, model_bytes, capsys):
    (exported.parent / "model.onnx").write_bytes(model_bytes)
    with pytest.raises(ModelNotFound, match=rf"several exported files: .*model\.onnx' and .*{exported.name}'"):
        Predictor(exported.parent)
    assert Predictor(exported)(RED).label == Predictor(exported.with_name("model.onnx"))(RED).label == "red"


def test_files_of_other_programs_are_named(tmp_path, info, graph):
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("openvino")
    (tmp_path / "a.tflite").write_bytes(tflite(info, SHARPNESS, metadata=False))
    with pytest.raises(NotAnExport, match="TensorFlow Lite model of another program: it has no zoo metadata"):
        Predictor(tmp_path / "a.tflite")
    path = openvino_ir(tmp_path / "ir", graph({}), {}, digest=False)
    with pytest.raises(NotAnExport, match="OpenVINO model of another program: it has no zoo metadata"):
        Predictor(path)
    with pytest.raises(NotAnExport, match="an XML file, such as the description of an OpenVINO model"):
        Predictor(path.read_bytes())


def test_a_tflite_file_can_be_given_as_bytes(info):
    pytest.importorskip("ai_edge_litert")
    predictor = Predictor(tflite(info, SHARPNESS))
    assert predictor.engine == "litert" and pickle.loads(pickle.dumps(predictor))([RED] * 9)[8].label == "red"


def test_other_programs_can_read_the_labels(tmp_path, info):
    pytest.importorskip("ai_edge_litert")
    import zipfile

    (tmp_path / "model.tflite").write_bytes(tflite(info, SHARPNESS))
    with zipfile.ZipFile(tmp_path / "model.tflite") as archive:
        assert archive.read("labels.txt") == b"red\ngreen\nblue\n"
        assert json.loads(archive.read("zoo.json")) == info.to_metadata()


def test_other_providers_are_refused(exported):
    with pytest.raises(ProviderNotStarted, match=r"on the processor, so providers must be cpu\. Received: Azure"):
        Predictor(exported, providers=["AzureExecutionProvider"])


CTRL_C = """
import os, signal, sys, time
from zoo_runtime import Predictor
signal.signal(signal.SIGINT, signal.default_int_handler)
first, second = Predictor(sys.argv[1]), Predictor(sys.argv[1])
del first
del second
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(20)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_still_works_after_predictors_are_gone(exported):
    """OpenVINO gives a thread another stack for signals, which is gone with the last of several cores."""
    ran = subprocess.run([sys.executable, "-c", CTRL_C, exported], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (0, "interrupted\n"), ran.stderr


def test_openvino_gets_the_options_of_the_processor(tmp_path, info, graph):
    path = make("openvino", tmp_path / "ir", info, graph)
    asked = Predictor(path, providers=[("cpu", {"INFERENCE_PRECISION_HINT": "f32"})])
    assert asked(RED) == Predictor(path)(RED)
    with pytest.raises(ProviderNotStarted, match="NO_SUCH_OPTION"):
        Predictor(path, providers=[("cpu", {"NO_SUCH_OPTION": "1"})])


def test_a_graph_that_does_not_match_its_metadata_is_refused(tmp_path, info, graph):
    pytest.importorskip("ai_edge_litert")
    larger = dataclasses.replace(info, image=dataclasses.replace(info.image, size=(48, 32)))
    for content, words in (
        (tflite(larger, SHARPNESS), None),
        (
            tflite(info, SHARPNESS, lambda model: setattr(model.subgraphs[0].tensors[0], "shape", [2, 24, 32, 3])),
            "only batches of",
        ),
    ):
        (tmp_path / "model.tflite").write_bytes(content)
        if words:
            with pytest.raises(CorruptModel, match=words):
                Predictor(tmp_path)
        else:
            assert Predictor(tmp_path).info.image.size == (48, 32)


def test_a_tflite_file_is_updated_and_rolled_back(tmp_path, info):
    pytest.importorskip("ai_edge_litert")
    device = tmp_path / "device"
    device.mkdir()
    first, second = tmp_path / "first.tflite", tmp_path / "second.tflite"
    first.write_bytes(tflite(info, SHARPNESS))
    second.write_bytes(tflite(dataclasses.replace(info, run={"seed": 1}), SHARPNESS))
    assert update(device, first).file == str(device / "model.tflite")
    zoo_runtime._session.write_tuned(str(device / "model.tflite"), zoo_runtime.Settings(threads=1), [])
    result = update(device, second)
    assert result.changed and result.info.run == {"seed": 1} and "tuned for the old file" in result.notes[0]
    assert (device / "model.previous.tflite").read_bytes() == first.read_bytes()
    assert rollback(device).info.run == {"seed": 0} and (device / "model.tflite").read_bytes() == first.read_bytes()
    assert Predictor(device)(RED).label == "red" and Predictor(device).settings.threads == 1


def test_an_update_does_not_mix_engines(exported, tmp_path, model):
    kind = {".xml": "an OpenVINO model", ".tflite": "a TensorFlow Lite model"}[exported.suffix]
    with pytest.raises(NotUpdated, match=rf"holds model\.onnx, but the new file is {kind}"):
        update(model.parent, exported)


def test_both_files_of_an_openvino_model_are_updated_and_rolled_back(tmp_path, info, graph):
    device = tmp_path / "device"
    device.mkdir()
    first, second = (openvino_of_run(tmp_path / str(seed), info, graph, seed) for seed in (0, 1))
    weights = [(each.parent / "model.bin").read_bytes() for each in (first, second)]
    assert weights[0] != weights[1]
    assert update(device, first).file == str(device / "model.xml")
    assert update(device, second.parent).info.run == {"seed": 1}
    names = {path.name for path in device.iterdir()}
    assert names == {"model.xml", "model.bin", "model.previous.xml", "model.previous.bin"}
    assert [(device / f"model{each}.bin").read_bytes() for each in (".previous", "")] == weights
    assert not update(device, second).changed and {path.name for path in device.iterdir()} == names
    assert rollback(device).info.run == {"seed": 0} and Predictor(device)(RED).label == "red"
    assert [(device / f"model{each}.bin").read_bytes() for each in ("", ".previous")] == weights
    # Weights that do not belong to the new file are found before anything is replaced.
    (second.parent / "model.bin").write_bytes(weights[0])
    with pytest.raises(CorruptModel, match="does not belong to"):
        update(device, second)
    assert {path.name for path in device.iterdir()} == names and Predictor(device).info.run == {"seed": 0}
    assert Predictor(device / "model.previous.xml").info.run == {"seed": 1}


KILLED = """
import os, signal, sys
import openvino
from zoo_runtime import rollback, update

left = int(sys.argv[1])

def hook(event, arguments):
    global left
    if event in ("open", "os.rename", "os.link", "os.remove") and sys.argv[2] in str(arguments):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
rollback(sys.argv[2]) if sys.argv[3] == "-" else update(sys.argv[2], sys.argv[3])
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="processes are killed by signals")
@pytest.mark.parametrize(
    ("step", "stride"),
    [
        ("update", 4),
        pytest.param("update", 1, marks=pytest.mark.every),
        pytest.param("rollback", 1, marks=pytest.mark.every),
    ],
)
def test_a_kill_before_any_step_leaves_a_pair_of_files(tmp_path, info, graph, step, stride):
    """The process is killed before the first, the fifth, ... thing that it does with a file of the folder."""
    paths = [openvino_of_run(tmp_path / str(seed), info, graph, seed) for seed in range(3)]
    device = tmp_path / "device"
    device.mkdir()
    for path in paths[:2]:
        update(device, path)
    new = str(paths[2]) if step == "update" else "-"
    for number in range(0, 120, stride):
        seeds = {Predictor(device).info.run["seed"], 2 if step == "update" else 0}
        seeds |= {Predictor(device / "model.previous.xml").info.run["seed"]} if step == "rollback" else set()
        command = [sys.executable, "-c", KILLED, str(number), str(device), new]
        ended = subprocess.run(command, capture_output=True)
        # What a device does when it starts, before any other update.
        predictor = Predictor(device)
        assert predictor.info.run["seed"] in seeds and zoo_runtime.check(predictor).passed, number
        if ended.returncode == 0:
            break
        assert ended.returncode == -signal.SIGKILL, ended.stderr
        assert not update(device, device).changed
        assert len({path.name for path in device.iterdir()}) == 4
        both = [Predictor(device / name).info.run["seed"] for name in ("model.xml", "model.previous.xml")]
        assert both[0] != both[1]
        if step == "update" and both[0] == 2:
            rollback(device)
    assert 12 < number < 116


def test_a_signature_covers_both_files_of_an_openvino_model(tmp_path, info, graph):
    pytest.importorskip("cryptography", reason="needs cryptography: pip install 'finezoo-runtime[sign]'")
    path = make("openvino", tmp_path / "ir", info, graph)
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    plain = serialization.NoEncryption()
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "key.pem").write_bytes(private.private_bytes(encoding, form, plain))
    public = private.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "pub.pem").write_bytes(public)
    signer = zoo_runtime.Signer(tmp_path / "key.pem")
    (path.parent / "model.xml.sig").write_bytes(signer.sign(path))
    assert zoo_runtime.verify_signature(path, tmp_path / "pub.pem") == signer.fingerprint
    weights = bytearray((path.parent / "model.bin").read_bytes())
    weights[0] ^= 1
    (path.parent / "model.bin").write_bytes(weights)
    with pytest.raises(BadSignature, match="another file than the one that belongs to it"):
        zoo_runtime.verify_signature(path, tmp_path / "pub.pem")
    with pytest.raises(CorruptModel, match="does not belong to"):
        Predictor(path)


def test_the_engines_are_imported_only_for_their_files(model):
    code = "import sys; from zoo_runtime import Predictor; Predictor(sys.argv[1]); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code, model], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not set(loaded) & {"ai_edge_litert", "openvino", "zoo_runtime._litert", "zoo_runtime._openvino", "zipfile"}
    assert not set(loaded) & {"zoo_runtime._tflite", "zoo_runtime._ir", "xml.parsers.expat"}


def test_info_without_a_file_shows_the_machine(capsys):
    code, out, _ = run(["info", "--json"], capsys)
    shown = json.loads(out)
    assert (
        code == 0 and shown["engines"].keys() == {"onnxruntime", "litert", "openvino"} and "cpu" in shown["providers"]
    )
    code, out, _ = run(["info"], capsys)
    assert code == 0 and "ONNX Runtime  .onnx files: " in out and "providers" in out
