"""What is installed, and what imports what."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HOMES = {"codec": "unimic/codec", "edge": "unimic/edge", "cloud": "unimic/cloud",
         "proto": "unimic/v1"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
        capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_has_all_packages_and_models(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    sources = {path.relative_to(ROOT / home).as_posix() for home in HOMES
               for path in (ROOT / home / "unimic").rglob("*")
               if path.is_file() and "__pycache__" not in path.parts}
    assert sources <= names
    assert not {name for name in names - sources if ".dist-info/" not in name}
    assert {f"{package}/py.typed" for package in HOMES.values()} <= sources
    assert "unimic/codec/models/manifest.json" in sources


def test_models_are_small(wheel: zipfile.ZipFile) -> None:
    models = [info for info in wheel.infolist()
              if info.filename.startswith("unimic/codec/models/")]
    assert sum(info.file_size for info in models) <= 40 * 2**20


def test_wheel_says_what_the_commands_are(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    text = wheel.read(name).decode()
    assert "unimic = unimic.edge.cli:main" in text
    assert "serve = unimic.cloud.cli:add_serve" in text
    assert "measure = unimic.measure.cli:add" in text
    assert "compact = unimic.cloud.backends.compact:load" in text


def test_imports_keep_the_direction() -> None:
    lint = Path(sys.executable).parent / "lint-imports"
    if not lint.exists():
        pytest.skip("import-linter is not installed")
    run = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


WITHOUT_CLOUD = """
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent} or name == "unimic.cloud":
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""


def run_without(absent: set[str], code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WITHOUT_CLOUD.format(absent=absent) + code],
                          cwd=folder, capture_output=True, text=True)


# What the cloud, train, measure and demo extras add to edge.
OTHER_EXTRAS = {"torch", "grpc_health", "grpc_reflection", "onnx", "onnxscript",
                "bjontegaard", "brotli", "easy_vqa", "imageio_ffmpeg", "pillow_jxl", "pyppmd",
                "pytorch_msssim", "zstandard", "skimage", "scipy"}


def test_edge_and_codec_import_without_the_other_extras(tmp_path: Path) -> None:
    modules = [path.relative_to(ROOT / part).with_suffix("").as_posix().replace("/", ".")
               for part in ("codec", "edge") for path in (ROOT / part).rglob("*.py")
               if path.stem != "__init__"]
    assert "unimic.edge.client" in modules
    run = run_without(OTHER_EXTRAS, "from importlib import import_module\n"
                      f"for name in {modules!r}: import_module(name)\n", tmp_path)
    assert run.returncode == 0, run.stderr


def test_encode_and_decode_without_the_other_extras(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (70, 40), "teal").save(tmp_path / "photo.png")
    run = run_without(
        OTHER_EXTRAS, "from unimic.edge.cli import main\n"
        "assert main(['encode', 'photo.png', 'p.umc']) == 0\n"
        "assert main(['decode', 'p.umc', 'back.png']) == 0\n"
        "assert main(['serve']) == 1\n"
        "assert main(['serve', '--port', '0', '--help']) == 1\n"
        "assert main(['models', 'verify', '--device', 'cpu']) == 1\n", tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stderr.startswith("unimic: error: serve: is not installed")
    assert 'error: --device: needs other packages: No module named ' in run.stderr
    assert run.stderr.endswith('; pip install "unimic[cloud]"\n')
    assert Image.open(tmp_path / "back.png").size == (70, 40)


def test_stubs_are_those_of_the_protocol() -> None:
    from google.protobuf import descriptor_pb2

    from unimic.v1 import packet_pb2, service_pb2

    for module, name in ((packet_pb2, "packet"), (service_pb2, "service")):
        source = (ROOT / "proto" / "unimic" / "v1" / f"{name}.proto").read_text()
        code = re.sub(r"//.*", "", source)
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        messages = [*file.message_type]
        messages += [nested for message in messages for nested in message.nested_type]
        enums = [*file.enum_type, *(enum for message in messages for enum in message.enum_type)]
        assert sorted(re.findall(r"^\s*(?:message|enum) (\w+)", code, re.MULTILINE)) == sorted(
            each.name for each in [*messages, *enums])
        kinds = descriptor_pb2.FieldDescriptorProto
        fields = []
        for field in (field for message in messages for field in message.field):
            label = ("optional" if field.proto3_optional else
                     "repeated" if field.label == kinds.LABEL_REPEATED else "")
            kind = (field.type_name.rpartition(".")[2]
                    or kinds.Type.Name(field.type).removeprefix("TYPE_").lower())
            fields.append((label, kind, field.name, str(field.number)))
        assert sorted(re.findall(
            r"^\s*(optional|repeated|)\s*(\w+) (\w+) = (\d+);", code, re.MULTILINE)
        ) == sorted(fields)
        values = [(value.name, str(value.number)) for enum in enums for value in enum.value]
        assert sorted(re.findall(r"^\s*(\w+) = (\d+);", code, re.MULTILINE)) == sorted(values)
