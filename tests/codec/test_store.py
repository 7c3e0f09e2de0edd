"""The model store: what it hands out is what the manifest says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from unimic.codec.coder import coder_of
from unimic.codec.errors import CorruptData, InvalidInput, UnknownModel
from unimic.codec.store import ModelStore, add_model

ABOUT: dict[str, Any] = {
    "licence": "Apache-2.0", "data": "none", "command": "true", "figures": {"psnr_db": 21.9},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, file in (
        ("image-tokenizer", "encoder.onnx"), ("image-tokenizer", "decoder.onnx"),
        ("text-tokenizer", "tokenizer.json"), ("image-entropy", "weights.safetensors"),
    ):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / file).write_bytes(f"{name} {file}".encode())
        (tmp_path / name / "README.md").write_text("card")
    add_model(tmp_path, "image-tokenizer", "image-tokenizer",
              sizes={"image_codes": 64, "patch": 8}, **ABOUT)
    add_model(tmp_path, "text-tokenizer", "text-tokenizer", sizes={"text_codes": 300}, **ABOUT)
    add_model(tmp_path, "image-entropy", "image-entropy", id=b"12345678", **ABOUT)
    return tmp_path


def test_what_was_added_is_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIMIC_MODELS", str(folder))
    store = ModelStore.default()
    entry = store.entry("image-entropy")
    assert entry.id == b"12345678"
    assert entry.figures == {"psnr_db": 21.9}
    assert set(store.entry("image-tokenizer").files) == {"encoder.onnx", "decoder.onnx"}
    assert store.path("image-entropy", "weights.safetensors").read_bytes().startswith(b"image-")
    for name in store.entries:
        store.verify(name)
    space = store.space()
    assert (space.image_codes, space.patch, space.text_codes) == (64, 8, 300)
    assert entry.space == space.id
    assert len(space.id) == 8


def test_the_space_changes_with_the_tokenizers(folder: Path) -> None:
    before = ModelStore(folder).space()
    (folder / "text-tokenizer" / "tokenizer.json").write_bytes(b"another")
    add_model(folder, "text-tokenizer", "text-tokenizer", sizes={"text_codes": 300}, **ABOUT)
    after = ModelStore(folder)
    assert after.space().id != before.id
    assert after.entry("image-entropy").space == before.id
    assert after.fits("text-tokenizer")
    assert not after.fits("image-entropy")
    with pytest.raises(UnknownModel, match=r"'image-entropy' in .* was made for other tokenizers"):
        after.verify("image-entropy")
    coder = coder_of(after, lambda: pytest.fail("it was loaded"), lambda: pytest.fail("and this"))
    assert not coder.models


@pytest.mark.parametrize("damage", [b"", b"image-entropy weights.safetensorS", b"longer" * 99])
def test_a_changed_file_is_not_handed_out(folder: Path, damage: bytes) -> None:
    (folder / "image-entropy" / "weights.safetensors").write_bytes(damage)
    with pytest.raises(CorruptData, match=r"weights\.safetensors"):
        ModelStore(folder).path("image-entropy", "weights.safetensors")


def test_what_is_missing_is_named(folder: Path) -> None:
    (folder / "image-entropy" / "weights.safetensors").unlink()
    store = ModelStore(folder)
    with pytest.raises(UnknownModel, match=r"weights\.safetensors"):
        store.verify("image-entropy")
    with pytest.raises(UnknownModel, match="'other'"):
        store.path("other", "weights")
    with pytest.raises(UnknownModel, match=r"README\.md"):
        store.path("image-entropy", "README.md")
    with pytest.raises(UnknownModel, match="UNIMIC_MODELS"):
        ModelStore(folder / "nowhere")


@pytest.mark.parametrize("change", [
    lambda m: m.clear(),
    lambda m: m.update(format=99),
    lambda m: m.update(models=[]),
    lambda m: m["models"].update({"../up": m["models"].pop("image-entropy")}),
    lambda m: m["models"].update({"..": m["models"].pop("image-entropy")}),
    lambda m: m["models"]["image-entropy"].update(id="xyz"),
    lambda m: m["models"]["image-entropy"].update(id="1234"),
    lambda m: m["models"]["image-entropy"].update(files={"../up": {"sha256": "", "bytes": 0}}),
    lambda m: m["models"]["image-entropy"]["files"]["weights.safetensors"].update(sha256="xyz"),
    lambda m: m["models"]["image-entropy"]["files"]["weights.safetensors"].update(sha256="12"),
    lambda m: m["models"]["image-tokenizer"].update(sizes=[1]),
    lambda m: m["models"]["image-tokenizer"].update(sizes={"image_codes": "64", "patch": 8}),
    lambda m: m["models"]["image-tokenizer"].update(sizes={"image_codes": 2**70, "patch": 8}),
    lambda m: m["models"]["image-tokenizer"].update(sizes={"image_codes": 64, "patch": 0}),
    lambda m: m["models"]["image-entropy"].update(surprise=1),
    lambda m: m["models"]["image-entropy"].pop("licence"),
])
def test_a_manifest_that_cannot_be_understood(folder: Path, change: Any) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(CorruptData):
        ModelStore(folder)
    for text in "{", "[" * 100_000:
        path.write_text(text)
        with pytest.raises(CorruptData, match="manifest"):
            ModelStore(folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in folders here")
def test_a_pipe_is_no_file_of_a_model(folder: Path) -> None:
    path = folder / "image-entropy" / "weights.safetensors"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CorruptData, match="is no file"):
        ModelStore(folder).verify("image-entropy")


def test_what_cannot_be_added(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no files"):
        add_model(folder, "nothing", "compact", **ABOUT)
    with pytest.raises(InvalidInput, match="id"):
        add_model(folder, "image-entropy", "image-entropy", id=b"short", **ABOUT)
    other = tmp_path / "other"
    (other / "compact").mkdir(parents=True)
    (other / "compact" / "weights").write_bytes(b"w")
    with pytest.raises(UnknownModel, match="space"):
        add_model(other, "compact", "compact", **ABOUT)
    assert not (other / "manifest.json").exists()


def test_the_shipped_models_are_whole(store: ModelStore) -> None:
    for name in store.entries:
        store.verify(name)


def test_a_space_of_a_patch_that_no_header_can_say(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["models"]["image-tokenizer"]["sizes"]["patch"] = 80
    path.write_text(json.dumps(manifest))
    with pytest.raises(CorruptData, match="a patch of 80 pixels; use a tokenizer of 8 to 64"):
        ModelStore(folder).space()


def test_a_space_without_its_sizes(folder: Path) -> None:
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["models"]["text-tokenizer"]["sizes"]["text_codes"]
    path.write_text(json.dumps(manifest))
    with pytest.raises(CorruptData, match="image_codes, patch, not"):
        ModelStore(folder).space()


def test_a_manifest_is_replaced_in_one_step(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is stopped halfway leaves the old one."""
    def stop(*_: object) -> None:
        raise InterruptedError

    before = (folder / "manifest.json").read_bytes()
    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(InterruptedError):
        add_model(folder, "image-entropy", "image-entropy", id=b"another-", **ABOUT)
    assert (folder / "manifest.json").read_bytes() == before
