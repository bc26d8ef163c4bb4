"""Test `zoo export --sign`: signatures of the float32 file and of variants, and keys that cannot be used."""

from __future__ import annotations

import click
import pytest

from zoo_runtime import BadSignature, update, verify_signature

serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: E402


@pytest.fixture
def key(tmp_path):
    """Write an encrypted private key and its public key, and return the path of the private one."""
    private = ed25519.Ed25519PrivateKey.generate()
    path = tmp_path / "key.pem"
    lock = serialization.BestAvailableEncryption(b"open sesame")
    path.write_bytes(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock))
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pub").write_bytes(private.public_key().public_bytes(*form))
    return path


@pytest.mark.slow
def test_exports_are_signed_and_a_new_export_drops_the_signature(export, exported, key, tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO_SIGN_PASSPHRASE", "open sesame")
    public = tmp_path / "key.pub"
    result = export("--fp16", "--sign", key)
    assert result.code == 0, result.err
    (variant,) = exported.glob("*-fp16/model.onnx")
    assert f"Signature  {variant}.sig (key SHA256:" in result.out + result.err
    assert verify_signature(variant, public)
    result = export("--sign", key)
    assert result.code == 0, result.err
    model = variant.parent.with_name(variant.parent.name.removesuffix("-fp16")) / "model.onnx"
    assert verify_signature(model, public)
    (tmp_path / "device").mkdir()
    assert update(tmp_path / "device", model, require_signature=public).signed_by
    result = export()
    assert result.code == 0 and f"Removed {model}.sig" in result.out + result.err
    with pytest.raises(BadSignature, match="has no signature"):
        verify_signature(model, public)


def test_a_key_that_cannot_sign_is_reported_before_the_export(export, exported, key, tmp_path, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in exported.rglob("*")}
    monkeypatch.setenv("ZOO_SIGN_PASSPHRASE", "wrong")
    for given, words in ((key, "the passphrase does not open"), (tmp_path / "none.pem", "openssl genpkey")):
        result = export("--sign", given)
        assert result.code == 2 and words in result.err
    assert {path: path.stat().st_mtime_ns for path in exported.rglob("*")} == before
    monkeypatch.delenv("ZOO_SIGN_PASSPHRASE")
    # Nobody is there to type, or the user presses Ctrl-C: that is no reason to make a new key.
    monkeypatch.setattr("click.prompt", lambda *_, **options: (_ for _ in ()).throw(click.Abort()))
    result = export("--sign", key)
    assert result.code == 2 and "no passphrase was typed" in result.err and "ZOO_SIGN_PASSPHRASE" in result.err
    assert "damaged" not in result.err
