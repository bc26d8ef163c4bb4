"""Test signatures of exported files: what is accepted, and what is refused with which advice."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import time

import pytest
from PIL import Image

from zoo_runtime import BadSignature, Predictor, Signer, _signature, rollback, update, verify_signature
from zoo_runtime.cli import main

serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa  # noqa: E402

PASSPHRASE = "open sesame"


def write_keys(folder, name: str, key, encryption=None) -> None:
    folder.joinpath(f"{name}.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            encryption or serialization.NoEncryption(),
        )
    )
    folder.joinpath(f"{name}.pub").write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Write keys: mine, another, an encrypted one, an RSA key, and one in the form of OpenSSH."""
    folder = tmp_path_factory.mktemp("keys")
    mine = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    write_keys(folder, "mine", mine)
    write_keys(folder, "other", ed25519.Ed25519PrivateKey.generate())
    write_keys(folder, "locked", mine, serialization.BestAvailableEncryption(PASSPHRASE.encode()))
    write_keys(folder, "rsa", rsa.generate_private_key(65537, 2048))
    (folder / "ssh").write_bytes(
        mine.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
    )
    (folder / "ssh").chmod(0o600)
    (folder / "ssh.pub").write_bytes(
        mine.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    )
    return folder


@pytest.fixture
def signed(model, keys):
    """Sign the tiny exported file, and return its path."""
    model.with_name("model.onnx.sig").write_bytes(Signer(keys / "mine.pem").sign(model))
    return model


def test_a_signature_is_valid_for_its_key_in_each_form(signed, keys):
    fingerprint = Signer(keys / "mine.pem").fingerprint
    for name in ("mine.pub", "ssh.pub"):
        assert verify_signature(signed, keys / name) == fingerprint
    assert fingerprint.startswith("SHA256:") and len(fingerprint) == 50
    assert Signer(keys / "ssh").sign(signed) == Signer(keys / "mine.pem").sign(signed)
    assert Signer(keys / "locked.pem", lambda: PASSPHRASE).fingerprint == fingerprint


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_ssh_keygen_makes_and_checks_the_same_signatures(signed, keys, tmp_path):
    allowed = tmp_path / "allowed"
    allowed.write_text(f"zoo {(keys / 'ssh.pub').read_text()}\n")
    command = ["ssh-keygen", "-Y", "verify", "-f", allowed, "-I", "zoo", "-n", "zoo-model", "-s", f"{signed}.sig"]
    with signed.open("rb") as stream:
        assert b"Good" in subprocess.run(command, stdin=stream, capture_output=True, check=True).stdout
    signed.with_name("model.onnx.sig").unlink()
    for options, valid in (([], True), (["-O", "hashalg=sha256"], True)):
        signed.with_name("model.onnx.sig").unlink(missing_ok=True)
        command = ["ssh-keygen", "-Y", "sign", "-n", "zoo-model", *options, "-f", keys / "ssh", signed]
        subprocess.run(command, capture_output=True, check=True)
        assert bool(verify_signature(signed, keys / "mine.pub")) is valid
    signed.with_name("model.onnx.sig").unlink()
    command = ["ssh-keygen", "-Y", "sign", "-n", "file", "-f", keys / "ssh", signed]
    subprocess.run(command, capture_output=True, check=True)
    with pytest.raises(BadSignature, match="is for 'file', not for models of zoo"):
        verify_signature(signed, keys / "mine.pub")


def test_another_file_or_key_is_refused(signed, keys):
    with pytest.raises(BadSignature, match=r"is signed with the key SHA256:.* is the key SHA256:"):
        verify_signature(signed, keys / "other.pub")
    content = bytearray(signed.read_bytes())
    content[-1] ^= 1
    signed.write_bytes(content)
    with pytest.raises(BadSignature, match=r"is not a signature of.*Copy both files again"):
        verify_signature(signed, keys / "mine.pub")
    signed.with_name("model.onnx.sig").unlink()
    with pytest.raises(BadSignature, match=r"has no signature.*zoo export RUN --sign KEY"):
        verify_signature(signed, keys / "mine.pub")


def test_every_changed_byte_of_a_signature_is_refused_or_does_not_matter(signed, keys):
    path = signed.with_name("model.onnx.sig")
    text = path.read_bytes()
    start = text.index(b"\n") + 1
    blob = base64.b64decode(b"".join(text[start : text.rindex(b"-----END")].split()))
    for place in range(len(blob)):
        changed = bytearray(blob)
        changed[place] ^= 0x41
        armored = b"-----BEGIN SSH SIGNATURE-----\n" + base64.b64encode(changed) + b"\n-----END SSH SIGNATURE-----\n"
        path.write_bytes(armored)
        with pytest.raises(BadSignature):
            verify_signature(signed, keys / "mine.pub")
    for content in (b"", b"hello", text[:100], text[:start] + b"%%%" + text[start:], bytes(10**6)):
        path.write_bytes(content)
        with pytest.raises(BadSignature, match="damaged"):
            verify_signature(signed, keys / "mine.pub")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mine.pub", "is a public key, but a private key is needed"),
        ("ssh.pub", "is a public key, but a private key is needed"),
        ("rsa.pem", "is an RSA key, but Ed25519 is needed; `openssl genpkey -algorithm ed25519"),
        ("locked.pem", "is encrypted, and no passphrase was given"),
        ("none.pem", "cannot be read: No such file"),
    ],
)
def test_keys_that_cannot_sign(keys, name, words):
    with pytest.raises(BadSignature, match=words):
        Signer(keys / name)
    with pytest.raises(BadSignature, match="the passphrase does not open"):
        Signer(keys / "locked.pem", lambda: "wrong")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mine.pem", "is a private key, which must not leave your own machine"),
        ("rsa.pub", "is an RSA key, but Ed25519 is needed"),
        ("none.pub", "cannot be read: No such file.*-pubout -out pub.pem` writes the public key"),
    ],
)
def test_keys_that_cannot_check(signed, keys, name, words):
    with pytest.raises(BadSignature, match=words):
        verify_signature(signed, keys / name)


def test_a_device_takes_signed_files_alone(signed, keys, tmp_path, capsys, graph, info):
    device = tmp_path / "device"
    device.mkdir()
    options = ["--require-signature", str(keys / "mine.pub")]
    assert main(["update", str(device), str(signed), *options]) == 0
    assert "signature      valid, of the key SHA256:" in capsys.readouterr().out
    assert main(["check", str(device), *options]) == 0
    second = tmp_path / "second.onnx"
    second.write_bytes(graph({**info.to_metadata(), "zoo.run": '{"id": "2"}'}))
    for key, words in (("mine", "has no signature"), ("other", "is signed with the key")):
        if key == "other":
            second.with_name("second.onnx.sig").write_bytes(Signer(keys / "other.pem").sign(second))
        assert main(["update", str(device), str(second), *options]) == 1
        assert words in capsys.readouterr().err
        assert Predictor(device).info.run.get("id") != "2"
    second.with_name("second.onnx.sig").write_bytes(Signer(keys / "mine.pem").sign(second))
    update(device, second, require_signature=keys / "mine.pub")
    for _ in range(3):
        assert verify_signature(device / "model.onnx", keys / "mine.pub")
        assert verify_signature(device / "model.previous.onnx", keys / "mine.pub")
        rollback(device, require_signature=keys / "mine.pub")


def test_the_signature_of_an_equal_file_is_taken_over(signed, keys, tmp_path):
    device = tmp_path / "device"
    device.mkdir()
    shutil.copy(signed, device / "model.onnx")
    assert not update(device, signed, require_signature=keys / "mine.pub").changed
    verify_signature(device / "model.onnx", keys / "mine.pub")


def test_both_files_are_signed_while_they_are_exchanged(signed, keys, tmp_path, graph, info, monkeypatch):
    """A device that asks for a signature at each start must start after a power failure at this moment."""
    import os

    device = tmp_path / "device"
    device.mkdir()
    update(device, signed)
    second = tmp_path / "second.onnx"
    second.write_bytes(graph({**info.to_metadata(), "zoo.run": '{"id": "2"}'}))
    second.with_name("second.onnx.sig").write_bytes(Signer(keys / "mine.pem").sign(second))
    moments = []
    real = os.replace

    def checked(path, target):
        real(path, target)
        moments.append(verify_signature(device / "model.onnx", keys / "mine.pub"))

    monkeypatch.setattr(os, "replace", checked)
    update(device, second)
    rollback(device)
    assert len(moments) > 6


@pytest.mark.parametrize("step", ["update", "rollback"])
def test_both_files_are_signed_after_a_power_failure_at_any_moment(
    signed, keys, tmp_path, graph, info, monkeypatch, step
):
    class PowerFailure(BaseException):
        pass

    new = tmp_path / "new" / "model.onnx"
    new.parent.mkdir()
    new.write_bytes(graph(info.to_metadata()) + b"\x12\x03new")
    new.with_name("model.onnx.sig").write_bytes(Signer(keys / "mine.pem").sign(new))
    real, failed = os.replace, 0
    for moment in range(20):
        device = tmp_path / f"device{moment}"
        device.mkdir()
        update(device, signed)
        if step == "rollback":
            update(device, new)
        calls = []

        def replace(*arguments, calls=calls, moment=moment):
            calls.append(arguments)
            if len(calls) > moment:
                raise PowerFailure
            real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", replace)
            try:
                update(device, new) if step == "update" else rollback(device)
                break
            except PowerFailure:
                failed += 1
        verify_signature(device / "model.onnx", keys / "mine.pub")
        update(device, device)  # This finishes what was interrupted.
        if (device / "model.previous.onnx").exists():
            before = (device / "model.onnx").read_bytes()
            assert rollback(device, require_signature=keys / "mine.pub").changed
            assert (device / "model.onnx").read_bytes() != before
        verify_signature(device / "model.onnx", keys / "mine.pub")
        assert not [path.name for path in device.iterdir() if path.name.endswith(".part")]
    assert failed >= 5


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_a_pipe_is_no_signature_and_is_not_waited_for(signed, keys):
    signed.with_name("model.onnx.sig").unlink()
    os.mkfifo(signed.with_name("model.onnx.sig"))
    with pytest.raises(BadSignature, match="is a pipe"):
        verify_signature(signed, keys / "mine.pub")


def test_many_forged_signatures_are_refused_in_time(signed, keys, monkeypatch):
    path = signed.with_name("model.onnx.sig")
    other = signed.with_name("other.onnx")
    other.write_bytes(b"another file")
    forged = Signer(keys / "mine.pem").sign(other)
    path.write_bytes(forged * 200)
    real, read = _signature._digest, []
    monkeypatch.setattr(_signature, "_digest", lambda *arguments: read.append(arguments) or real(*arguments))
    with pytest.raises(BadSignature, match="not a signature of"):
        verify_signature(signed, keys / "mine.pub")
    assert len(read) == 1
    path.write_bytes(b"-----BEGIN SSH SIGNATURE-----" * 2250)
    started = time.perf_counter()
    with pytest.raises(BadSignature, match="not a signature, or it is damaged"):
        verify_signature(signed, keys / "mine.pub")
    assert time.perf_counter() - started < 0.3


def test_a_public_key_that_is_missing_is_not_advised_to_be_a_new_one(signed, keys):
    with pytest.raises(BadSignature, match="-pubout") as raised:
        verify_signature(signed, keys / "nothing.pub")
    assert "genpkey" not in str(raised.value)


def test_without_cryptography_the_message_has_the_command(signed, keys):
    code = (
        "import sys; sys.modules['cryptography'] = None\nfrom zoo_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "check", str(signed), "--require-signature", str(keys / "mine.pub")]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 1 and "pip install 'finezoo-runtime[sign]'" in ran.stderr


def test_a_predictor_opens_signed_files_alone(signed, keys, capsys, monkeypatch):
    options = ["--require-signature", str(keys / "other.pub")]
    red = Image.new("RGB", (40, 40), "red")
    assert Predictor(signed, require_signature=keys / "mine.pub")(red).label
    picture = str(signed.with_name("red.png"))
    red.save(picture)
    assert main(["predict", str(signed), picture, "--require-signature", str(keys / "mine.pub")]) == 0
    for command in (["predict", str(signed), picture], ["watch", str(signed), "--watch-folder", str(signed.parent)]):
        assert main([*command, *options]) == 1
        assert "is signed with the key SHA256:" in capsys.readouterr().err
    with pytest.raises(ValueError, match="needs the path of a file"):
        Predictor(signed.read_bytes(), require_signature=keys / "mine.pub")
    # A file that takes the place of the one that was checked.
    good = signed.read_bytes()
    checked = _signature.check_signature

    def exchanged(model, *others):
        fingerprint = checked(model, *others)
        signed.with_name("new").write_bytes(good)
        os.replace(signed.with_name("new"), signed)
        return fingerprint

    monkeypatch.setattr(_signature, "check_signature", exchanged)
    with pytest.raises(BadSignature, match="was replaced or written to while it was opened"):
        Predictor(signed, require_signature=keys / "mine.pub")


def test_the_service_takes_up_signed_files_alone(signed, keys, graph, info):
    models = pytest.importorskip("zoo_runtime._service.models")
    options = {"require_signature": str(keys / "mine.pub")}
    with pytest.raises(BadSignature, match="is signed with the key"):
        models.Model("tiny", str(signed), concurrency=1, options={"require_signature": str(keys / "other.pub")})
    served = models.Model("tiny", str(signed), concurrency=1, options=options, self_test=False)
    signed.write_bytes(graph({**info.to_metadata(), "zoo.run": '{"id": "2"}'}))
    assert not served.changed() and served.changed() and served.take_up() == "refused"
    assert "not a signature of" in served.problem and served.current.alone.info.run.get("id") != "2"
    assert not served.changed()
    signed.with_name("model.onnx.sig").write_bytes(Signer(keys / "mine.pem").sign(signed))
    assert not served.changed() and served.changed() and served.take_up() == "taken"
    assert served.current.alone.info.run["id"] == "2" and served.problem is None
