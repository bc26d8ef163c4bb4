"""The paths of `zoo-runtime serve`: answers, errors, limits, access, metrics and the description, without a socket."""

# The packages of the service may be missing on a device; what needs them is imported after the question.
# ruff: noqa: E402

from __future__ import annotations

import argparse
import asyncio
import base64
import gc
import io
import json
import os
import re
import threading
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from zoo_runtime import Predictor
from zoo_runtime.cli import main
from zoo_runtime.cli.serve import read_token

for needed in ("starlette", "uvicorn", "prometheus_client", "python_multipart", "jsonschema"):
    pytest.importorskip(needed, reason="needs the extra `serve`, and jsonschema")

import jsonschema
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from zoo_runtime._service import server
from zoo_runtime._service.app import Access, Service
from zoo_runtime._service.limits import Limits
from zoo_runtime._service.models import Model, names_of
from zoo_runtime.cli import serve as command

LIMITS = Limits(concurrency=2, body=200_000, seconds=5)


def serve(path, names=("tiny",), limits=LIMITS, **more) -> Service:
    models = {name: Model(name, str(path), concurrency=2, options={"max_pixels": 10_000}) for name in names}
    return Service(models, limits, **more)


def client_of(service: Service, host: str = "localhost") -> TestClient:
    return TestClient(service.app, base_url=f"http://{host}", raise_server_exceptions=False)


@pytest.fixture
def service(model) -> Service:
    return serve(model)


@pytest.fixture
def client(service) -> TestClient:
    return client_of(service)


@pytest.fixture
def red(pictures) -> bytes:
    return (pictures / "red.jpg").read_bytes()


JPEG = {"content-type": "image/jpeg"}


def png(size=(8, 8), color=(200, 10, 10)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, color).save(out, "PNG")
    return out.getvalue()


# Answers


def test_the_answer_is_what_predict_prints(client, model, pictures, red, capsys):
    assert main(["predict", str(model), str(pictures / "red.jpg"), "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    del expected["path"]
    answer = client.post("/predict", content=red, headers=JPEG)
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    got = answer.json()
    assert got.pop("model") == "tiny" and re.fullmatch("[0-9a-f]{12}", got.pop("version"))
    assert got == expected


@pytest.mark.parametrize("kind", ["image/jpeg", "image/x-something", "application/octet-stream", None])
def test_all_kinds_of_content_in_which_a_picture_can_be_sent(client, red, kind):
    answer = client.post("/predict/tiny", content=red, headers={"content-type": kind} if kind else {})
    assert answer.json()["label"] == "red"


def test_a_form_with_a_file_and_one_with_a_field(client, red):
    answer = client.post("/predict", files={"picture": ("cat.jpg", red, "image/jpeg")}, data={"note": "of today"})
    assert answer.json()["label"] == "red"
    body = b'--X\r\nContent-Disposition: form-data; name="picture"\r\n\r\n' + red + b"\r\n--X--\r\n"
    answer = client.post("/predict", content=body, headers={"content-type": "multipart/form-data; boundary=X"})
    assert answer.json()["label"] == "red"


def test_top_and_coverage(client, graph, info, tmp_path, red):
    answer = client.post("/predict?top=2", content=red, headers=JPEG).json()
    assert next(iter(answer["probabilities"])) == "red" and len(answer["probabilities"]) == 2
    trust = {"sets": {"0.95": 0.2}, "unknown": {"threshold": 0.999}}
    path = tmp_path / "trust.onnx"
    path.write_bytes(graph(replace(info, trust=trust).to_metadata()))
    trusting = client_of(serve(path))
    answer = trusting.post("/predict?coverage=0.95", content=red, headers=JPEG).json()
    assert answer["label"] is None and answer["unknown"] is True and answer["sets"] == {"0.95": ["red"]}
    refused = trusting.post("/predict?coverage=0.5", content=red, headers=JPEG)
    assert refused.status_code == 400 and "must be 0.95" in refused.json()["message"]


def test_several_models_go_by_name(model, red):
    client = client_of(serve(model, names=("a", "b")))
    assert client.post("/predict/b", content=red, headers=JPEG).json()["model"] == "b"
    answer = client.post("/predict", content=red, headers=JPEG)
    assert answer.status_code == 400 and "a, b" in answer.json()["message"]
    assert [one["name"] for one in client.get("/models").json()["models"]] == ["a", "b"]


# Errors


@pytest.mark.parametrize(
    "method, path, content, headers, status, error",
    [
        ("POST", "/predict", b"", JPEG, 400, "NoPicture"),
        ("POST", "/predict", b"no picture at all", JPEG, 415, "NotAPicture"),
        ("POST", "/predict", "damaged", JPEG, 422, "CorruptPicture"),
        ("POST", "/predict", png((200, 100)), JPEG, 413, "PictureTooLarge"),
        ("POST", "/predict", b"x" * 200_001, JPEG, 413, "RequestTooLarge"),
        ("POST", "/predict", b"x", {"content-type": "text/plain"}, 415, "UnsupportedType"),
        ("POST", "/predict", b"x", {"content-type": "application/x-www-form-urlencoded"}, 415, "UnsupportedType"),
        ("POST", "/predict", b"x", {**JPEG, "content-encoding": "gzip"}, 415, "UnsupportedEncoding"),
        ("POST", "/predict", b"x", {"content-type": "multipart/form-data"}, 400, "BadForm"),
        ("POST", "/predict", b"x", {"content-type": "multipart/form-data; boundary=X"}, 400, "BadForm"),
        ("POST", "/predict", b"--X\r\n\r\nhalf", {"content-type": "multipart/form-data; boundary=X"}, 400, "BadForm"),
        ("POST", "/predict/other", b"x", JPEG, 404, "UnknownModel"),
        ("POST", "/predict?top=0", b"x", JPEG, 400, "BadQuery"),
        ("POST", "/predict?top=\u0663", b"x", JPEG, 400, "BadQuery"),
        ("POST", "/predict?coverage=much", b"x", JPEG, 400, "BadQuery"),
        ("POST", "/predict?topp=3", b"x", JPEG, 400, "BadQuery"),
        ("GET", "/predict", b"", {}, 405, "WrongMethod"),
        ("GET", "/nothing", b"", {}, 404, "UnknownPath"),
        ("GET", "/static/../app.py", b"", {}, 404, "UnknownPath"),
        ("GET", "/static/..%2fapp.py", b"", {}, 404, "UnknownPath"),
    ],
)
def test_errors_are_json_with_a_reason(client, pictures, method, path, content, headers, status, error):
    content = (pictures / "damaged.jpg").read_bytes() if content == "damaged" else content
    answer = client.request(method, path, content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert set(answer.json()) == {"error", "message"} and len(answer.json()["message"]) > 15
    assert "the data given" not in answer.text and "max_pixels" not in answer.text


def test_formats_limit_what_is_read(model, red):
    served = Model("tiny", str(model), concurrency=2, options={"formats": ["jpeg"]})
    client = client_of(Service({"tiny": served}, LIMITS))
    assert client.post("/predict", content=red, headers=JPEG).status_code == 200
    refused = client.post("/predict", content=png(), headers=JPEG)
    assert refused.status_code == 415 and "zoo-runtime serve --formats jpeg,png reads it" in refused.json()["message"]
    options = argparse.ArgumentParser()
    command.add_arguments(options)
    assert options.parse_args(["m", "--formats", "jpeg,png"]).formats == ("jpeg", "png")


@pytest.mark.parametrize(
    "content, help_",
    [
        (bytes(range(1, 200)), "zoo-runtime serve --formats default,tga also reads TGA"),
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "zoo-runtime serve --formats default,jpeg2000 reads it"),
        (png((200, 100)), "zoo-runtime serve --max-pixels 20000 reads it"),
    ],
)
def test_errors_name_options_of_the_command_and_no_arguments_of_python(client, content, help_):
    text = base64.b64encode(content).decode()
    request = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}]}
    messages = client.post("/predict", content=content, headers=JPEG).json()["message"], infer_error(client, request)
    assert all(help_ in message and "formats=" not in message for message in messages)


def infer_error(client, request) -> str:
    return client.post("/v2/models/tiny/infer", json=request).json()["error"]


def test_a_form_with_two_files_or_many_parts_is_refused(client, red):
    two = client.post("/predict", files=[("a", ("a.jpg", red)), ("b", ("b.jpg", red))])
    assert two.status_code == 400 and "2 files" in two.json()["message"]
    many = client.post("/predict", files=[("a", ("a.jpg", b"x"))] * 30)
    assert many.status_code == 400 and "more than 16 parts" in many.json()["message"]


def test_text_that_is_a_path_is_no_picture(client, model):
    answer = client.post("/predict", content=str(model).encode(), headers=JPEG)
    assert answer.status_code == 415
    other = client.post("/predict", content=b"/nothing/there", headers=JPEG)
    assert other.status_code == 415 and other.json() == answer.json()


def test_a_fault_of_the_service_is_json_too(service, client, red, capsys, monkeypatch):
    def broken(picture):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(service.models["tiny"].current.alone, "decode", broken)
    answer = client.post("/predict", content=red, headers=JPEG)
    assert answer.status_code == 500 and "secret" not in answer.text
    assert "RuntimeError: secret detail" in capsys.readouterr().err


# Limits: an application is called directly, because a test client sends a request as a whole


async def ask(service: Service, messages, headers=(), path="/predict", wait: float = 0.0):
    """Send messages to the service, and return the status, the headers and the body of its answer.

    Args:
        service: The service.
        messages: Bodies of the request, in turn. None waits for ever.
        headers: Pairs of names and values, besides host and content type.
        path: The path.
        wait: The seconds before each body.
    """
    raw = [(b"host", b"localhost"), (b"content-type", b"image/jpeg"), *headers]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": raw, "client": ("127.0.0.1", 1), "server": ("localhost", 80), "scheme": "http"}
    bodies, sent = iter(messages), []

    async def receive():
        await asyncio.sleep(wait)
        body = next(bodies, None)
        if body is None:
            await asyncio.sleep(100)
        return {"type": "http.request", "body": body, "more_body": body != b""}

    async def send(message):
        sent.append(message)

    await service.app({**scope, "root_path": ""}, receive, send)
    if not sent:
        return None, {}, {}
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return sent[0]["status"], dict(sent[0]["headers"]), json.loads(body)


def test_the_body_of_a_refused_request_is_forgotten_at_once(model):
    """An error that holds a frame which holds the error would keep 20 MB until Python looks for such circles."""
    service = serve(model, limits=replace(LIMITS, body=3_000_000))
    asyncio.run(ask(service, iter([b"x", b"", None])))
    gc.collect()
    gc.disable()
    tracemalloc.start()
    try:
        status, _, _ = asyncio.run(ask(service, iter([b"x" * 2_000_000, b"", None])))
        assert status == 415 and tracemalloc.get_traced_memory()[0] < 1e6
    finally:
        tracemalloc.stop()
        gc.enable()


CHUNKED = [(b"transfer-encoding", b"chunked")]


def test_a_body_is_refused_while_it_is_being_read(service):
    read = 0

    def endless():
        nonlocal read
        while True:
            read += 1
            yield b"x" * 50_000

    status, headers, answer = asyncio.run(ask(service, endless(), CHUNKED))
    assert status == 413 and "at least 250 kB" in answer["message"] and headers[b"connection"] == b"close"
    # Some more is read, so that the client sees the answer, and then the connection ends.
    assert 5 < read <= 50
    assert service.held.bytes == 0


def test_an_announced_body_is_refused_before_it_is_read(service):
    status, _, answer = asyncio.run(ask(service, iter([b""]), [(b"content-length", b"900000000")]))
    assert status == 413 and answer["message"].startswith("The request has 900 MB")


def test_a_slow_body_is_refused(model, monkeypatch):
    monkeypatch.setattr("zoo_runtime._service.edge._DRAIN_SECONDS", 0.2)
    service = serve(model, limits=replace(LIMITS, seconds=0.2))
    status, headers, answer = asyncio.run(ask(service, iter([b"x"] * 12), CHUNKED, wait=0.05))
    assert status == 408 and answer["error"] == "TooSlow" and headers[b"connection"] == b"close"


def test_all_bodies_together_are_bounded(model):
    service = serve(model, limits=replace(LIMITS, held=100_000))

    async def both():
        waiting = asyncio.create_task(ask(service, iter([b"x" * 80_000, None]), CHUNKED))
        await asyncio.sleep(0.05)
        refused = await ask(service, iter([b"x" * 80_000, b""]), CHUNKED)
        waiting.cancel()
        return refused

    status, headers, answer = asyncio.run(both())
    assert status == 503 and int(headers[b"retry-after"]) >= 1 and "100 kB" in answer["message"]


@pytest.fixture
def stuck(model, monkeypatch):
    """Return a service whose networks wait for an event, and this event."""
    event = threading.Event()
    service = serve(model, limits=replace(LIMITS))
    current = service.models["tiny"].current
    for predictor in {id(current.alone): current.alone, id(current.shared): current.shared}.values():
        decode = predictor.decode

        def wait(picture, decode=decode):
            event.wait(20)
            return decode(picture)

        monkeypatch.setattr(predictor, "decode", wait)
    yield service, event
    event.set()


def test_a_full_queue_refuses_at_once_and_loses_nobody(stuck, red):
    service, event = stuck
    object.__setattr__(service.limits, "queue", 3)

    async def many():
        tasks = [asyncio.create_task(ask(service, iter([red, b"", None]))) for _ in range(9)]
        end = time.monotonic() + 10
        while sum(task.done() for task in tasks) < 4 and time.monotonic() < end:
            await asyncio.sleep(0.02)
        done = [task.result() for task in tasks if task.done()]
        waiting = service.workers.waiting()
        event.set()
        return done, waiting, await asyncio.gather(*tasks)

    done, waiting, answers = asyncio.run(many())
    # Two threads and three places in the queue.
    assert [status for status, _, _ in done] == [503] * 4 and waiting == 3
    assert all(int(headers[b"retry-after"]) >= 1 and answer["error"] == "Busy" for _, headers, answer in done)
    assert sorted(status for status, _, _ in answers) == [200] * 5 + [503] * 4
    assert all(answer["label"] == "red" for status, _, answer in answers if status == 200)


def test_an_answer_that_takes_too_long_keeps_its_thread(stuck, red):
    service, event = stuck
    object.__setattr__(service.limits, "seconds", 0.1)

    async def ask_and_wait():
        answer = await ask(service, iter([red, b"", None]))
        admitted = service.workers.admitted
        event.set()
        end = time.monotonic() + 10
        while service.workers.admitted and time.monotonic() < end:
            await asyncio.sleep(0.02)
        return answer, admitted

    (status, headers, answer), admitted = asyncio.run(ask_and_wait())
    assert status == 503 and "longer than 0.1 s" in answer["message"] and b"retry-after" in headers
    assert admitted == 1 and service.workers.admitted == 0 and service.held.bytes == 0


def test_a_client_that_goes_leaves_the_queue(stuck, red):
    service, event = stuck

    async def leave():
        busy = [asyncio.create_task(ask(service, iter([red, b"", None]))) for _ in range(2)]
        await asyncio.sleep(0.1)

        messages = iter([("http.request", red), ("http.disconnect", b"")])

        async def receive():
            kind, body = next(messages)
            return {"type": kind, "body": body}

        async def send(message):
            raise AssertionError("nobody is there")

        scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict", "query_string": b""}
        scope |= {"headers": [(b"content-length", b"9")], "client": None, "server": None, "scheme": "http"}
        await service.app({**scope, "root_path": ""}, receive, send)
        await asyncio.sleep(0.05)
        admitted = service.workers.admitted
        event.set()
        return admitted, await asyncio.gather(*busy)

    admitted, answers = asyncio.run(leave())
    assert admitted == 2 and [status for status, _, _ in answers] == [200, 200]


# Who may ask


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "192.168.1.7", "pi.localhost"])
def test_addresses_and_names_of_the_machine_are_hosts(client, host):
    assert client.get("/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil", "[x]"]
)
def test_other_hosts_are_refused_against_dns_rebinding(client, host):
    for path in ("/", "/models", "/v2/health/live"):
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 421 and "--allow-host" in answer.text


def test_hosts_that_the_user_allows(model):
    assert (
        client_of(serve(model, access=Access(hosts=["Cam.Example"])), "cam.example").get("/models").status_code == 200
    )
    assert client_of(serve(model, access=Access(hosts=["*"])), "any.example").get("/models").status_code == 200


def test_pages_of_other_origins_may_not_send_pictures(client, red):
    def status(origin):
        return client.post("/predict", content=red, headers={**JPEG, "origin": origin}).status_code

    assert status("http://localhost") == 200
    assert [status(origin) for origin in ("http://evil.example", "null", "http://localhost:81", "http://[a")] == [
        403
    ] * 4
    answer = client.get("/models", headers={"origin": "http://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_cors_for_the_origin_that_was_named_alone(model, red):
    client = client_of(serve(model, access=Access("a-very-secret-token", origins=["https://ok.example"])))
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    allowed = client.options("/predict", headers={"origin": "https://ok.example", **asked})
    assert allowed.status_code == 200
    assert allowed.headers["access-control-allow-origin"] == "https://ok.example"
    other = client.options("/predict", headers={"origin": "https://evil.example", **asked})
    assert "access-control-allow-origin" not in other.headers
    # A page can read why it was refused, too.
    refused = client.post("/predict", content=red, headers={**JPEG, "origin": "https://ok.example"})
    assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == "https://ok.example"


def test_the_token(model, red):
    client = client_of(serve(model, access=Access("a-very-secret-token")))
    for path in ("/", "/static/app.js", "/v2/health/live", "/v2/health/ready"):
        assert client.get(path).status_code == 200
    for path in ("/models", "/metrics", "/openapi.json", "/v2", "/v2/models/tiny", "/nothing"):
        answer = client.get(path)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    for given in ("Bearer wrong", "Bearer", "Basic a-very-secret-token", "Bearer a-very-secret-token-and-more"):
        assert client.post("/predict", content=red, headers={**JPEG, "authorization": given}).status_code == 401
    right = {**JPEG, "authorization": "bearer a-very-secret-token"}
    assert client.post("/predict", content=red, headers=right).json()["label"] == "red"


# The Open Inference Protocol


def tensor(pixels, **changes):
    entry = {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
    return {"inputs": [entry | changes]}


def infer(client, request, status=200):
    answer = client.post("/v2/models/tiny/infer", json=request)
    assert answer.status_code == status, answer.text
    return answer.json()


def test_health_and_metadata(client, service):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/tiny/ready").json() == {"name": "tiny", "ready": True}
    assert client.get("/v2").json()["name"] == "zoo-runtime"
    described = client.get("/v2/models/tiny").json()
    assert described["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 24, 32, 3]}]
    assert described["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}]
    (version,) = described["versions"]
    assert client.get(f"/v2/models/tiny/versions/{version}").json() == described
    assert client.get("/v2/models/tiny/versions/1").status_code == 404


def test_tensors_flat_and_nested(client, model):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 24, 32, 3), np.uint8)
    expected = Predictor(str(model)).probabilities(pixels)
    answer = infer(client, {"id": "7", **tensor(pixels)})
    assert answer["id"] == "7" and answer["model_name"] == "tiny"
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "FP32", [9, 3])
    assert np.allclose(np.reshape(output["data"], (9, 3)), expected, atol=1e-6)
    nested = infer(client, tensor(pixels, data=pixels.tolist()) | {"outputs": [{"name": "probabilities"}]})
    assert nested["outputs"] == answer["outputs"] and "id" not in nested


def test_pictures_as_base64(client, red):
    texts = [base64.b64encode(picture).decode() for picture in (red, png(color=(10, 10, 200)))]
    answer = infer(client, {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [2], "data": texts}]})
    assert np.reshape(answer["outputs"][0]["data"], (2, 3)).argmax(1).tolist() == [0, 2]


PIXELS = np.zeros((1, 24, 32, 3), np.uint8)
TEXT = base64.b64encode(b"no picture").decode()


@pytest.mark.parametrize(
    "request_, status, part",
    [
        ([], 400, "must be a JSON object"),
        ({}, 400, "'inputs' must be a list with one tensor"),
        ({"inputs": [1]}, 400, "'inputs' must be a list with one tensor"),
        (tensor(PIXELS, name="input"), 400, "must be called 'image'"),
        (tensor(PIXELS, datatype="FP32"), 400, "must be UINT8"),
        (tensor(PIXELS, shape=[1, 24, 32]), 400, r"must be [pictures, 24, 32, 3]"),
        (tensor(PIXELS, shape=[-1, 24, 32, 3]), 400, "whole numbers above 0"),
        (tensor(PIXELS, shape=[True, 24, 32, 3]), 400, "whole numbers above 0"),
        (tensor(PIXELS, shape=[2, 24, 32, 3]), 400, "has 2304 numbers"),
        (tensor(PIXELS, shape=[10**9, 24, 32, 3]), 413, "at most 64"),
        (tensor(PIXELS, data=[256] * 2304), 400, "from 0 to 255"),
        (tensor(PIXELS, data=[-1] * 2304), 400, "from 0 to 255"),
        (tensor(PIXELS, data=[0.5] * 2304), 400, "from 0 to 255"),
        (tensor(PIXELS, data=[True] * 2304), 400, "from 0 to 255"),
        (tensor(PIXELS, data=[10**30] * 2304), 400, "from 0 to 255"),
        (tensor(PIXELS, data=["1"] * 2304), 400, "from 0 to 255"),
        (tensor(PIXELS, data=[[1], [1, 2]]), 400, "list of numbers"),
        (tensor(PIXELS, data=[]), 400, "has 0 numbers"),
        (tensor(PIXELS, data={}), 400, "list of numbers"),
        (tensor(PIXELS, data=[[1] * 2304]), 400, "list of numbers"),
        ({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1], "parameters": 5}]}, 400, "has no 'data'"),
        (tensor(PIXELS) | {"outputs": [{"name": "labels"}]}, 400, "The outputs are probabilities"),
        (tensor(PIXELS) | {"outputs": 1}, 400, "'outputs' must be a list"),
        (tensor(PIXELS) | {"id": 7}, 400, "'id' must be a string"),
        ({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1, 24, 32, 3]}]}, 400, "has no 'data'"),
        (tensor(PIXELS, datatype="BYTES", shape=[2], data=[TEXT]), 400, "must be [1]"),
        (tensor(PIXELS, datatype="BYTES", shape=[1], data=["%%%"]), 400, "not base64"),
        (tensor(PIXELS, datatype="BYTES", shape=[1], data=[TEXT]), 415, "not a picture"),
        (tensor(PIXELS, datatype="BYTES", shape=[65], data=[TEXT] * 65), 413, "at most 64"),
    ],
)
def test_requests_that_break_the_protocol(client, request_, status, part):
    answer = infer(client, request_, status)
    assert set(answer) == {"error"} and part in answer["error"]


def test_a_long_text_among_the_numbers_takes_no_memory(client):
    """numpy would make every element as wide as the text: 180 kB of JSON would take 920 MB."""
    tracemalloc.start()
    try:
        infer(client, tensor(PIXELS, data=["x" * 100_000] + [1] * 2303), 400)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 9_000, b'{"inputs": ' + b"1" * 5000 + b"}"])
def test_what_is_not_json(client, content):
    answer = client.post("/v2/models/tiny/infer", content=content)
    assert answer.status_code == 400 and set(answer.json()) == {"error"}


def test_json_takes_little_memory(model):
    """As objects, these would take 7 to 27 times the size of the request."""
    client = client_of(serve(model, limits=replace(LIMITS, body=5_000_000)))
    start = b'{"inputs": [{"name": "image", "datatype": "UINT8", "shape": [64, 24, 32, 3], "data": ['
    bodies = {
        b"[" + b"{}," * 1_600_000 + b"1]": 413,
        b"[" + b'{"":1},' * 700_000 + b"1]": 413,
        start + b"[9]," * 1_200_000 + b"[9]]}]}": 400,
        start + b"999," * 1_200_000 + b"9]}]}": 400,
        start + b'"",' * 1_600_000 + b"9]}]}": 413,
        start + b"999," * (64 * 24 * 32 * 3 - 1) + b"9]}]}": 400,
    }
    for body, status in bodies.items():
        tracemalloc.start()
        try:
            answer = client.post("/v2/models/tiny/infer", content=body)
            # The client of the tests holds a request a few times too.
            assert answer.status_code == status and tracemalloc.get_traced_memory()[1] < 6 * 5e6
        finally:
            tracemalloc.stop()
        assert status == 400 or "more than 10,000 values" in answer.json()["error"]


@pytest.mark.parametrize(
    "old, new, part",
    [
        ("0]", "0 0]", "not JSON"),
        ("0]", "00]", "not JSON"),
        ("0]", "0,]", "as 'shape' says"),
        ("0, 0], [", "0, 0], 0[", "as 'shape' says"),
        ("0, 0], [0", "0], [0, 0", "as 'shape' says"),
        ("0]", "0x]", "not JSON"),
    ],
)
def test_nested_numbers_are_read_strictly(client, old, new, part):
    text = json.dumps(tensor(PIXELS, data=PIXELS.tolist()))
    assert client.post("/v2/models/tiny/infer", content=text).status_code == 200
    answer = client.post("/v2/models/tiny/infer", content=text.replace(old, new, 1).encode())
    assert answer.status_code == 400 and part in answer.json()["error"]


def test_errors_of_the_protocol_have_its_form(client):
    for method, path, status in (("GET", "/v2/models/no", 404), ("GET", "/v2/no", 404), ("POST", "/v2", 405)):
        answer = client.request(method, path)
        assert answer.status_code == status and set(answer.json()) == {"error"}
    header = {"inference-header-content-length": "10"}
    answer = client.post("/v2/models/tiny/infer", content=b"x", headers=header)
    assert answer.status_code == 400 and "binary data" in answer.json()["error"]


# Figures and description


def samples(client) -> dict[tuple[str, ...], float]:
    families = text_string_to_metric_families(client.get("/metrics").text)
    return {
        (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


def test_metrics(graph, info, tmp_path, red):
    path = tmp_path / "trust.onnx"
    path.write_bytes(graph(replace(info, trust={"unknown": {"threshold": 0.999}}).to_metadata()))
    client = client_of(serve(path))
    for content in (red, red, b"no picture"):
        client.post("/predict", content=content, headers=JPEG)
    infer(client, tensor(PIXELS))
    for number in range(5):
        client.get(f"/nothing/{number}")
    found = samples(client)
    assert found["zoo_requests_total", "200", "POST", "/predict"] == 2
    assert found["zoo_requests_total", "415", "POST", "/predict"] == 1
    # A client cannot create new time series by asking for new paths.
    assert found["zoo_requests_total", "404", "GET", "other"] == 5
    assert found["zoo_pictures_total", "tiny"] == 3 and found["zoo_unknown_total", "tiny"] == 3
    assert found["zoo_picture_errors_total", "NotAPicture", "tiny"] == 1
    assert found["zoo_request_seconds_count", "/predict"] == 3 and found["zoo_prediction_seconds_count", "tiny"] == 3
    assert found["zoo_queue",] == 0 and found["zoo_running",] == 0 and found["zoo_held_bytes",] == 0
    assert found["zoo_model_stale", "tiny"] == 0 and found["process_resident_memory_bytes",] > 1e7


def test_answers_are_as_openapi_describes_them(client, red, pictures):
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0" and "security" not in document

    def conforms(method: str, path: str, template: str, **request) -> int:
        answer = client.request(method, path, **request)
        described = document["paths"][template][method.lower()]["responses"][str(answer.status_code)]
        schema = described["content"]["application/json"]["schema"]
        jsonschema.Draft202012Validator({**schema, "components": document["components"]}, format_checker=None).validate(
            answer.json()
        )
        return answer.status_code

    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    tiny = {"template": "/predict/{name}", "headers": JPEG}
    assert conforms("POST", "/predict/tiny?top=1", content=red, **tiny) == 200
    assert conforms("POST", "/predict/tiny", content=b"", **tiny) == 400
    assert conforms("POST", "/predict/tiny", content=b"no", **tiny) == 415
    assert conforms("POST", "/predict/tiny", content=(pictures / "damaged.jpg").read_bytes(), **tiny) == 422
    assert conforms("POST", "/predict/tiny", content=b"x" * 300_000, **tiny) == 413
    assert conforms("POST", "/predict", "/predict", content=red, headers=JPEG) == 200
    assert conforms("GET", "/models", "/models") == 200
    assert conforms("POST", "/v2/models/tiny/infer", "/v2/models/{name}/infer", json=tensor(PIXELS)) == 200
    assert conforms("POST", "/v2/models/tiny/infer", "/v2/models/{name}/infer", json={}) == 400
    assert conforms("GET", "/v2/models/no", "/v2/models/{name}") == 404
    for path in ("/v2", "/v2/health/live", "/v2/health/ready"):
        assert conforms("GET", path, path) == 200
    for path in ("", "/ready"):
        assert conforms("GET", f"/v2/models/tiny{path}", f"/v2/models/{{name}}{path}") == 200


def test_every_path_is_described(service, client):
    described = set(client.get("/openapi.json").json()["paths"])
    app = service.app
    routes = {route.path for route in app.routes}
    versions = {path for path in routes if "{version}" in path}
    assert routes - versions - {"/", "/static/{file}", "/openapi.json"} == described


def test_the_description_asks_for_the_token_where_there_is_one(model):
    client = client_of(serve(model, access=Access("a-very-secret-token")))
    document = client.get("/openapi.json", headers={"authorization": "Bearer a-very-secret-token"}).json()
    assert document["security"] == [{"token": []}]


# The page

PAGE = Path(server.__file__).with_name("page")


def test_the_page_fetches_nothing_from_elsewhere_and_has_no_script_of_its_own(client):
    answer = client.get("/")
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    text = answer.text
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|\sstyle=|javascript:", text)
    for name in re.findall(r'(?:src|href)="([^"]+)"', text):
        assert client.get(f"/{name}").status_code == 200, name
    files = "".join(path.read_text("utf-8") for path in PAGE.iterdir())
    addresses = set(re.findall(r"https?://[^\s\"'<`]+", files))
    assert addresses == {"http://www.w3.org/2000/svg", "http://127.0.0.1:8000/predict"}


def test_the_page_sets_names_only_as_text():
    script = (PAGE / "app.js").read_text("utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", script)


def test_files_of_the_page_are_asked_for_again_only_if_they_have_changed(client):
    first = client.get("/static/app.css")
    again = client.get("/static/app.css", headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304 and again.content == b""


# Names and the command


def test_names_of_models(tmp_path):
    assert names_of(["exported/flowers", "a/pets/model.onnx", "b/birds.onnx", "x=c/d.onnx"]) == {
        "flowers": "exported/flowers",
        "pets": "a/pets/model.onnx",
        "birds": "b/birds.onnx",
        "x": "c/d.onnx",
    }
    with pytest.raises(ValueError, match=r"two models are called 'a'.*a-2=y/a\.onnx"):
        names_of(["x/a.onnx", "y/a.onnx"])
    with pytest.raises(ValueError, match=r"'my photos' cannot be the name.*photos=my photos\.onnx"):
        names_of(["my photos.onnx"])


@pytest.mark.parametrize(
    "content, part",
    [("short", "16 to 4096"), ("with a space in between it", "without spaces"), (None, "cannot be read")],
)
def test_tokens_that_are_refused(model, tmp_path, capsys, content, part):
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content + "\n")
    assert main(["serve", str(model), "--token-file", str(path), "--port", "0"]) == 2
    assert part in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_token_files_that_are_none_do_not_stop_the_start(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("zoo_runtime.cli.serve._PIPE_SECONDS", 0.1)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_text("x" * 20_000)
    parts = {tmp_path / "pipe": "nobody has written", "/dev/zero": "is a device", tmp_path / "long": "more than 4096"}
    for path, part in parts.items():
        assert main(["serve", str(model), "--token-file", str(path), "--port", "0"]) == 2
        error = capsys.readouterr().err
        assert part in error and "chmod 600 /dev" not in error


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_token_comes_through_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text("a-very-secret-token\n"))
    writer.start()
    assert read_token(str(pipe)) == "a-very-secret-token"
    writer.join(10)


@pytest.mark.parametrize(
    "option", [["--port", "70000"], ["--max-body", "5"], ["--allow-origin", "*"], ["--allow-origin", "http://a/b"]]
)
def test_options_that_are_refused(model, option, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["serve", str(model), *option])
    assert stopped.value.code == 2 and "Received" in capsys.readouterr().err


def test_a_model_that_cannot_be_used_is_said_at_the_start(model, graph, info, tmp_path, capsys):
    assert main(["serve", str(tmp_path / "nothing.onnx"), "--port", "0"]) == 1
    assert "nothing.onnx" in capsys.readouterr().err
    wrong = json.loads(json.dumps(info.selftest))
    wrong["pictures"][0]["probabilities"] = [0, 0, 1]
    model.write_bytes(graph(replace(info, selftest=wrong).to_metadata()))
    assert main(["serve", str(model), "--port", "0"]) == 1
    assert "fails its self-test" in capsys.readouterr().err
    model.write_bytes(graph(replace(info, selftest={}).to_metadata()))
    assert main(["serve", str(model), "--port", "0"]) == 1
    assert "--skip-self-test" in capsys.readouterr().err


# New files


def other(graph, info, name="purple", selftest=None) -> bytes:
    changed = replace(info, classes=(name, "green", "blue"), selftest=selftest or info.selftest)
    return graph(changed.to_metadata())


def replaced(path: Path, content: bytes) -> None:
    """Put a file in place in one step, with another modification time."""
    new = path.with_name("new")
    new.write_bytes(content)
    new.replace(path)


def test_a_new_file_answers_after_its_self_test(service, client, model, graph, info, red):
    tiny = service.models["tiny"]
    before = tiny.current.version
    assert not tiny.changed()
    replaced(model, other(graph, info))
    # The first look may see a file that is still being copied.
    assert not tiny.changed() and tiny.changed()
    assert tiny.take_up() == "taken" and not tiny.changed()
    answer = client.post("/predict", content=red, headers=JPEG).json()
    assert answer["label"] == "purple" and answer["version"] != before


@pytest.mark.parametrize("kind", ["truncated", "wrong", "foreign", "gone"])
def test_a_new_file_that_fails_leaves_the_old_one(service, client, model, graph, info, red, kind):
    tiny = service.models["tiny"]
    wrong = json.loads(json.dumps(info.selftest))
    wrong["pictures"][0]["probabilities"] = [0, 0, 1]
    content = {
        "truncated": other(graph, info)[:-100],
        "wrong": other(graph, info, selftest=wrong),
        "foreign": b"\x89PNG no model",
        "gone": None,
    }[kind]
    if content is None:
        model.unlink()
        assert not tiny.changed() and not tiny.changed()
    else:
        replaced(model, content)
        assert not tiny.changed() and tiny.changed()
        assert tiny.take_up() == "refused"
        # It is not tried again and again.
        assert not tiny.changed()
    assert "goes on answering" in tiny.problem
    assert client.get("/models").json()["models"][0]["problem"] == tiny.problem
    assert client.post("/predict", content=red, headers=JPEG).json()["label"] == "red"
    replaced(model, other(graph, info))
    assert not tiny.changed() and tiny.changed() and tiny.take_up() == "taken"
    assert tiny.problem is None


def test_a_pipe_in_place_of_the_file_does_not_stop_the_search_for_new_ones(service, client, model, graph, info):
    held = service.models["tiny"]
    held.path = str(model.parent)
    model.unlink()
    assert not held.changed() and "not there" in held.problem
    os.mkfifo(model)
    assert not held.changed() and not held.changed()
    assert "is a pipe or a device" in client.get("/models").json()["models"][0]["problem"]
    model.unlink()
    assert not held.changed() and "not there" in held.problem
    replaced(model, other(graph, info))
    held.changed()
    assert held.changed() and held.take_up() == "taken"


def test_the_same_content_at_another_time_is_no_new_model(service, model, model_bytes):
    tiny = service.models["tiny"]
    replaced(model, model_bytes)
    assert not tiny.changed() and tiny.changed() and tiny.take_up() == "same" and not tiny.changed()


def test_the_service_looks_by_itself(service, model, graph, info, red, monkeypatch, capsys):
    monkeypatch.setattr("zoo_runtime._service.app._LOOK_SECONDS", 0.02)
    with client_of(service) as client:
        replaced(model, other(graph, info))
        end = time.monotonic() + 10
        while client.post("/predict", content=red, headers=JPEG).json()["label"] != "purple":
            assert time.monotonic() < end
            time.sleep(0.02)
        replaced(model, b"damaged")
        while not client.get("/models").json()["models"][0]["problem"]:
            assert time.monotonic() < end
            time.sleep(0.02)
        # The figures follow the reason.
        while samples(client).get(("zoo_model_stale", "tiny")) != 1:
            assert time.monotonic() < end
            time.sleep(0.02)
        while samples(client).get(("zoo_model_reloads_total", "tiny", "refused")) != 1:
            assert time.monotonic() < end
            time.sleep(0.02)
    assert "the new file has other classes: 3 (3 before)" in capsys.readouterr().err
