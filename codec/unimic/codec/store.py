"""The model store: a folder of model files and the manifest that says what they are.

    models/manifest.json
    models/image-tokenizer/encoder.onnx …     one folder for each model, with its model card
    models/text-entropy/weights.safetensors …

A file is handed out only after its size and SHA-256 were found to be those of the manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from unimic.codec.errors import CorruptData, InvalidInput, UnknownModel
from unimic.codec.tokens import PITCHES, TokenSpace

MANIFEST = "manifest.json"
FORMAT = 1
ID_BYTES = 8
CARD = "README.md"
IMAGE_TOKENIZER = "image-tokenizer"
TEXT_TOKENIZER = "text-tokenizer"
IMAGE_REFINER = "image-refiner"
ENCODER, DECODER, REFINER = "encoder.onnx", "decoder.onnx", "refiner.onnx"

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class File:
    """Size and SHA-256 (hexadecimal) of a model file."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Entry:
    """One model of the store.

    Attributes:
        name: also that of its folder.
        kind: what it is for, such as ``"image-tokenizer"`` or ``"text-entropy"``.
        files: by name; the model card is not among them.
        id: 8 bytes that name the model on the wire.
        space: id of the token space that it works in; empty for the tokenizers, which make it up.
        licence: of the weights.
        data: that it was trained on.
        command: that trained it.
        figures: measured.
        sizes: tokenizers only; the fields of `TokenSpace` that it determines.
    """

    name: str
    kind: str
    files: dict[str, File]
    id: bytes
    space: bytes
    licence: str
    data: str
    command: str
    figures: Figures = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)


class ModelStore:
    """The models in ``folder``.

    Raises:
        UnknownModel: there is no manifest.
        CorruptData: the manifest cannot be understood.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            if manifest["format"] != FORMAT:
                raise CorruptData("format", f"{path} has format {manifest['format']!r}, this "
                                  f"version reads {FORMAT}", "install models of this version")
            entries = [_entry(name, value) for name, value in manifest["models"].items()]
        except OSError as error:
            raise UnknownModel("models", f"cannot read {path} ({error.strerror})",
                               "install the package with its models or set UNIMIC_MODELS to "
                               "their folder") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptData("manifest", f"{path} cannot be understood ({error!r})",
                              "install the models anew") from error
        self.entries = {entry.name: entry for entry in entries}

    @classmethod
    def default(cls) -> ModelStore:
        """The folder in ``UNIMIC_MODELS``, or else the models that the package ships."""
        return cls(os.environ.get("UNIMIC_MODELS") or Path(__file__).parent / "models")

    def entry(self, name: str) -> Entry:
        """The model ``name``; `UnknownModel` if there is none."""
        try:
            return self.entries[name]
        except KeyError:
            raise UnknownModel("model", f"no {name!r} in {self.folder}",
                               f"there are {', '.join(sorted(self.entries)) or 'none'}") from None

    def fits(self, name: str) -> bool:
        """Whether the model ``name`` is a tokenizer, or was made for the store's tokenizers."""
        space = self.entry(name).space
        return not space or space == self.space().id

    def path(self, name: str, file: str) -> Path:
        """Where ``file`` of the model ``name`` is, verified once in each process.

        Raises:
            UnknownModel: the manifest does not name it, it is missing, or the model was made for
                other tokenizers than the store's.
            CorruptData: its size or hash is not that of the manifest.
        """
        if not self.fits(name):
            raise UnknownModel("model", f"{name!r} in {self.folder} was made for other tokenizers",
                               "train and export it for these, or remove it")
        files = self.entry(name).files
        if file not in files:
            raise UnknownModel("model", f"{name!r} has no file {file!r}",
                               f"its files are {', '.join(sorted(files))}")
        path = self.folder / name / file
        _verify(path, files[file])
        return path

    def verify(self, name: str) -> None:
        """Check every file of the model ``name``; raises as `path` does."""
        for file in self.entry(name).files:
            self.path(name, file)

    def space(self) -> TokenSpace:
        """The token space of the two tokenizers.

        Raises:
            UnknownModel: one is missing.
            CorruptData: the manifest does not give their sizes.
        """
        return _space(self.entries)


def add_model(
    folder: str | os.PathLike[str],
    name: str,
    kind: str,
    *,
    licence: str,
    data: str,
    command: str,
    figures: Figures,
    id: bytes | None = None,
    sizes: Mapping[str, int] | None = None,
) -> Entry:
    """Enter the files in ``folder/name`` into the manifest of ``folder``; replaces an old entry.

    Args:
        folder: of the store; the manifest is made if there is none.
        name: of the model and of its folder.
        kind: see `Entry`.
        licence: see `Entry`.
        data: see `Entry`.
        command: see `Entry`.
        figures: see `Entry`.
        id: 8 bytes; without it, the first of the SHA-256 over the hashes of the files.
        sizes: see `Entry`.

    Raises:
        InvalidInput: no files, or an ``id`` of another length.
        UnknownModel: the tokenizers, which every other model needs, are not in the store yet.
    """
    folder = Path(folder)
    files = {
        path.name: File(sha256_of(path), path.stat().st_size)
        for path in sorted((folder / name).glob("*"))
        if path.is_file() and path.name != CARD
    }
    if not files:
        raise InvalidInput("name", f"{folder / name} has no files", "export the model first")
    if id is None:
        id = hashlib.sha256(_digests(files)).digest()[:ID_BYTES]
    elif len(id) != ID_BYTES:
        raise InvalidInput("id", f"{len(id)} bytes", f"pass {ID_BYTES}")
    exists = (folder / MANIFEST).exists()
    entries = ModelStore(folder).entries if exists else {}
    space = b"" if name in (IMAGE_TOKENIZER, TEXT_TOKENIZER) else _space(entries).id
    entry = Entry(name, kind, files, id, space, licence, data, command, figures, sizes or {})
    _write_manifest(folder, {**entries, name: entry})
    return entry


def _space(entries: Mapping[str, Entry]) -> TokenSpace:
    missing = {IMAGE_TOKENIZER, TEXT_TOKENIZER} - entries.keys()
    if missing:
        raise UnknownModel("space", f"the store has no {' and no '.join(sorted(missing))}",
                           "install the tokenizers")
    tokenizers = [entries[IMAGE_TOKENIZER], entries[TEXT_TOKENIZER]]
    # Tokens mean what the encoders make of pictures and texts; a decoder may improve later.
    digest = hashlib.sha256(b"".join(
        _digests({name: file for name, file in entry.files.items() if name != DECODER})
        for entry in tokenizers)).digest()
    sizes = {**tokenizers[0].sizes, **tokenizers[1].sizes}
    if sizes.keys() != {"image_codes", "patch", "text_codes"}:
        raise CorruptData("manifest", "the sizes of the token space are "
                          f"{', '.join(sorted(sizes)) or 'missing'}, not image_codes, patch and "
                          "text_codes", "install the models anew")
    if sizes["patch"] not in PITCHES:
        raise CorruptData("manifest", f"a patch of {sizes['patch']} pixels",
                          f"use a tokenizer of {PITCHES[0]} to {PITCHES[-1]}")
    return TokenSpace(digest[:ID_BYTES], **sizes)


def _write_manifest(folder: Path, entries: Mapping[str, Entry]) -> None:
    models = {}
    for name in sorted(entries):
        value = asdict(entries[name])
        del value["name"]
        models[name] = {**value, "id": value["id"].hex(), "space": value["space"].hex()}
    text = json.dumps({"format": FORMAT, "models": models}, indent=2, ensure_ascii=False)
    # Replaced in one step: a reader never sees half a manifest.
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(folder / MANIFEST)


def _entry(name: str, value: Mapping[str, Any]) -> Entry:
    if not _plain(name):
        raise ValueError(f"{name!r} is not a folder name")
    if len(bytes.fromhex(value["id"])) != ID_BYTES:
        raise ValueError(f"the id of {name!r} is not {ID_BYTES} bytes long")
    files = {file: File(**properties) for file, properties in value["files"].items()}
    for file, known in files.items():
        if not _plain(file):
            raise ValueError(f"{file!r} is not a file name")
        if len(bytes.fromhex(known.sha256)) != hashlib.sha256().digest_size:
            raise ValueError(f"the hash of {file!r} is none")
    for size_of, size in value["sizes"].items():
        if type(size) is not int or not 0 < size < 1 << 31:
            raise ValueError(f"{size_of} of {name!r} is {size!r}")
    converted = {"files": files, "id": bytes.fromhex(value["id"]),
                 "space": bytes.fromhex(value["space"])}
    return Entry(**{**value, **converted, "name": name})


def _plain(name: str) -> bool:
    """Whether a name stays within its folder."""
    return Path(name).name == name != ".."


def _digests(files: Mapping[str, File]) -> bytes:
    return b"".join(bytes.fromhex(files[name].sha256) for name in sorted(files))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@cache
def _verify(path: Path, expected: File) -> None:
    try:
        size = path.stat().st_size
        if not path.is_file():  # a pipe or a device would have no end
            raise CorruptData(path.name, f"{path} is no file", "install the models anew")
        if size != expected.bytes:
            raise CorruptData(path.name, f"{path} has {size} bytes, the manifest says "
                              f"{expected.bytes}", "install the models anew")
        if sha256_of(path) != expected.sha256:
            raise CorruptData(path.name, f"{path} does not have the hash of the manifest",
                              "install the models anew")
    except OSError as error:
        raise UnknownModel(path.name, f"cannot read {path} ({error.strerror})",
                           "install the models anew") from error
