"""What the documentation promises: the example runs, files exist, commands have their options."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from unimic.edge.cli import build_parser

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def find_blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of every block of code."""
    return re.findall(r"^```(\w*)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


PAGES = sorted((ROOT / "docs").glob("*.md"))
LINKING = [*ROOT.glob("*.md"), *PAGES, *(ROOT / "codec/unimic/codec/models").glob("*/README.md")]
# Of `python -m unimic…`: the module and the rest, up to the end of the line or of the code.
TRAININGS = sorted({(module, rest) for page in PAGES for module, rest in re.findall(
    r"python -m (unimic\.cloud\.training\.\w+)((?:\\\n|[^`\n])*)",
    page.read_text(encoding="utf-8")) if "--" in rest.replace("--help", "")})


@pytest.mark.parametrize(("page", "made", "wide", "said"), [
    ("README.md", ("edited.png", "back.png"), 208 + 128, "wire"),
    ("docs/sdk.md", ("vase-4.png", "back.png"), 208 + 64, "timeout: no result within 0.05 s"),
])
def test_examples_run(page: str, made: tuple[str, ...], wide: int, said: str,
                      tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                      capsys: pytest.CaptureFixture[str]) -> None:
    from unimic.edge.demo import service

    blocks = find_blocks((ROOT / page).read_text(encoding="utf-8"))
    example = "".join(text for language, text in blocks if language == "python")
    monkeypatch.chdir(tmp_path)
    Image.linear_gradient("L").resize((208, 176)).convert("RGB").save("kitchen.jpg")
    with service(None) as address:
        names: dict[str, object] = {}
        exec(compile(example.replace("localhost:50051", address), page, "exec"), names)
    assert said in capsys.readouterr().out
    assert [Image.open(name).size for name in made] == [(208, 176)] * len(made)
    assert names["wide"].image.size == (wide, 176)  # type: ignore[attr-defined]


def prose(page: Path) -> str:
    """A page without its blocks of code, each of which ends."""
    text = page.read_text(encoding="utf-8")
    assert not len(re.findall(r"^```", text, re.MULTILINE)) % 2, f"{page}: a block has no end"
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What links may name in a page: its titles as GitHub turns them into addresses."""
    titles = re.findall(r"^#+ (.*)", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("http"):
            continue
        name, _, anchor = target.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


def test_commands_that_documents_name_parse() -> None:
    pages = [README, *(page.read_text(encoding="utf-8") for page in PAGES)]
    blocks = [text for page in pages for language, text in find_blocks(page) if not language]
    lines = "".join(blocks).replace("\\\n", "").splitlines()
    commands = [line.split("#")[0] for line in lines if line.startswith("unimic ")]
    assert len(commands) > 25
    for command in commands:
        words = shlex.split(command)[1:]
        build_parser(words).parse_args(words)


class Parsed(Exception):
    """The options of a command were understood."""


@pytest.mark.parametrize(("module", "rest"), TRAININGS)
def test_trainings_take_the_options_that_documents_name(
        module: str, rest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = shlex.split(rest.replace("\\\n", ""))
    parse = argparse.ArgumentParser.parse_args

    def only_parse(parser: argparse.ArgumentParser, argv: list[str]) -> None:
        parse(parser, argv)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    with pytest.raises(Parsed):
        importlib.import_module(module).main(words)
