"""A checkpoint from someone else is data or it is refused: in one line that says what to do, and nothing runs."""

from __future__ import annotations

import gzip
import logging
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from segrobust.core.errors import UserError
from segrobust.models.checkpoint.inspection import inspect_checkpoint
from segrobust.models.checkpoint.loading import (
    convert_checkpoint,
    load_from_strict,
    load_state_dict,
)
from tests.security.payloads import PAYLOADS, weights

READERS = {
    "load_state_dict": load_state_dict,
    "inspect_checkpoint": inspect_checkpoint,
    "load_from_strict": lambda path: load_from_strict(str(path), "cpu"),
    "convert_checkpoint": lambda path: convert_checkpoint(path, Path(path).with_suffix(".safetensors")),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_file_that_would_run_code_is_refused_and_does_not(payload, reader, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "model.pth"
    path.write_bytes(PAYLOADS[payload](marker))
    with pytest.raises(UserError, match="refused") as refusal:
        READERS[reader](path)
    assert not marker.exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.pth"]
    message = str(refusal.value)
    assert "\n" not in message
    assert message.startswith(str(path))
    assert "safetensors" in message
    assert "--trust-checkpoint" in message


@pytest.mark.parametrize("payload", PAYLOADS)
def test_the_payloads_are_live(payload, tmp_path):
    """Otherwise the test above would prove nothing."""
    marker, path = tmp_path / "marker", tmp_path / "model.pth"
    path.write_bytes(PAYLOADS[payload](marker))
    if payload.startswith("plain pickle"):
        pickle.loads(path.read_bytes())  # noqa: S301
    else:
        torch.load(path, weights_only=False)
    assert marker.exists()


def test_what_others_allow_is_not_allowed_here(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "model.pth"
    path.write_bytes(PAYLOADS["builtins.eval"](marker))
    with torch.serialization.safe_globals([eval, getattr]):
        with pytest.raises(UserError, match=r"refused.*eval"):
            load_state_dict(path)
        assert set(torch.serialization.get_safe_globals()) >= {eval, getattr}
    assert not marker.exists()


def test_the_refusal_names_what_the_file_wanted(tmp_path):
    for payload, name in {"posix.system": "posix.system", "builtins.exec": "exec", "getattr abuse": "getattr"}.items():
        path = tmp_path / "model.pth"
        path.write_bytes(PAYLOADS[payload](tmp_path / "marker"))
        with pytest.raises(UserError, match=rf"\([^)]*{name}[^)]*\)"):
            load_state_dict(path)


def test_trust_is_explicit_and_logged(tmp_path, caplog):
    marker, path = tmp_path / "marker", tmp_path / "model.pth"
    path.write_bytes(PAYLOADS["beside good weights"](marker))
    with caplog.at_level(logging.WARNING):
        loaded = load_state_dict(path, trust=True)
    assert torch.equal(loaded["weight"], torch.ones(2, 2))
    assert marker.exists()
    assert "trust_checkpoint" in caplog.text
    assert "posix.system" in caplog.text
    caplog.clear()
    torch.save(weights(), path)
    with caplog.at_level(logging.WARNING):
        load_state_dict(path, trust=True)
    assert not caplog.records


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def make(kind: str, path: Path) -> None:
    """A file that is no usable checkpoint for a reason of its own."""
    torch.save(weights(), path)
    if kind == "missing":
        path.unlink()
    elif kind == "directory":
        path.unlink()
        path.mkdir()
    elif kind.startswith("bytes: "):
        path.write_bytes(BYTES[kind])
    elif kind == "truncated":
        cut(path, 0.6)
    elif kind == "truncated, old format":
        torch.save(weights(), path, _use_new_zipfile_serialization=False)
        cut(path, 0.6)
    elif kind == "truncated safetensors":
        save_file(dict(weights()), path)
        cut(path, 0.9)
    elif kind == "damaged in the middle":
        content = bytearray(path.read_bytes())
        content[60:160] = bytes(100)
        path.write_bytes(content)
    else:
        torch.save(CONTENTS[kind], path)


BYTES = {
    "bytes: empty": b"",
    "bytes: web page": b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>",
    "bytes: web page with a mark": b"\xef\xbb\xbf<html></html>",
    "bytes: LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n",
    "bytes: gzip": gzip.compress(b"model"),
    "bytes: text": b"epoch 1: mIoU 54.9",
    "bytes: PNG": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "bytes: zip of nothing": b"PK\x05\x06" + bytes(18),
}
CONTENTS = {
    "a list": [1, 2, 3],
    "a tensor": torch.zeros(3),
    "no weights": {},
    "nested weights": {"encoder": dict(weights()), "decoder": dict(weights())},
    "numbers among the weights": {"weight": torch.zeros(2), "epoch": 3},
}
BAD = {
    "missing": "no such checkpoint file",
    "directory": "this is a directory",
    "bytes: empty": "the file is empty",
    "bytes: web page": r"web page \(HTML\)",
    "bytes: web page with a mark": r"web page \(HTML\)",
    "bytes: LFS pointer": "git lfs pull",
    "bytes: gzip": "unpack it",
    "bytes: text": "expected safetensors or a file of torch.save",
    "bytes: PNG": "expected safetensors or a file of torch.save",
    "bytes: zip of nothing": "expected safetensors or a file of torch.save",
    "truncated": "damaged",
    "truncated, old format": "damaged",
    "truncated safetensors": "damaged",
    "damaged in the middle": "damaged",
    "a list": r"expected named weights \(a state dict\), got a list",
    "a tensor": "got a Tensor",
    "no weights": "there are none",
    "nested weights": "'encoder' is a dict",
    "numbers among the weights": "'epoch' is a int",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_file_that_is_no_checkpoint_is_told_in_one_line(kind, tmp_path):
    path = tmp_path / "model.pth"
    make(kind, path)
    with pytest.raises(UserError, match=BAD[kind]) as refusal:
        load_state_dict(path)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).startswith(str(path))


@pytest.mark.parametrize(
    "address",
    [
        "http://example.org/model.pth",
        "https://example.org/model.pth",
        "s3://bucket/model.pth",
        "torchvision://resnet50",
    ],
)
def test_nothing_is_downloaded(address, monkeypatch):
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a download was started")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    for reader in (load_state_dict, READERS["load_from_strict"]):
        with pytest.raises(UserError, match=f"^{address}: nothing is downloaded here"):
            reader(address)
