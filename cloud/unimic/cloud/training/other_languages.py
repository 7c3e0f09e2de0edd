"""Collect texts in other languages than English, to train the text entropy model on.

    pip download --no-deps -d WHEELS homeassistant kolibri emoji jupyterlab-language-pack-{fr-FR,…}
    python -m unimic.cloud.training.other_languages --wheels WHEELS --out other-languages.txt.gz

What people wrote for the interfaces of free software, in some sixty languages: whole sentences,
one a line, and the names of emoji. Lines with markup or placeholders are left out, and no language
gets more than its share.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

from unimic.cloud.training.command import command
from unimic.cloud.training.files import understood, whole

CATALOGUES = {
    "homeassistant": r"homeassistant/components/\w+/translations/([a-zA-Z]+)[\w-]*\.json",
    "kolibri": r"kolibri/locale/([a-z]+)\w*/LC_MESSAGES/.*\.json",
    "jupyterlab_language_pack": r"jupyterlab_language_pack_([a-z]+)\w*/locale/.*\.json",
    "emoji": r"emoji/unicode_codes/emoji_([a-z]+)\.json",
}
"""Wheels, and which of their files are texts of which language."""

LEFT_OUT = {"en", "ach", "sr-Latn"}  # trained on already; no language
MARKUP = re.compile(r"[{}<>\\|@%\[\]]|://|_\w+_|\w+\.\w+\.")
LENGTHS = range(3, 160)
CHARACTERS = 150_000
"""Of one language at most; three times as many of the most spoken ones."""
SPOKEN = ("ar", "de", "es", "fr", "hi", "it", "ja", "ko", "pt", "ru", "zh")


def texts(value: object) -> Iterator[str]:
    """All strings in parsed JSON, but for its keys."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, part in value.items():
            if name:  # gettext's header has no name
                yield from texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part)


def collect(wheels: Path) -> dict[str, set[str]]:
    """Fit texts by language.

    Raises:
        FileNotFoundError: there are none.
        CorruptData: a wheel is broken.
    """
    found: dict[str, set[str]] = defaultdict(set)
    for path in sorted(wheels.glob("*.whl")):
        pattern = next((p for name, p in CATALOGUES.items() if path.name.startswith(name)), None)
        if pattern is None:
            continue
        with understood(path, "is no whole wheel", "fetch it again"), ZipFile(path) as wheel:
            for name in wheel.namelist():
                match = re.fullmatch(pattern, name)
                if match is None or match[1] in LEFT_OUT:
                    continue
                parsed = json.loads(wheel.read(name))
                if path.name.startswith("emoji"):  # names are words between underlines
                    parsed = [text.strip(":").replace("_", " ") for text in texts(parsed)]
                found[match[1]].update(
                    line for text in texts(parsed) for line in text.splitlines()
                    if len(line) in LENGTHS and not MARKUP.search(line))
    if not found:
        raise FileNotFoundError(f"no texts in the wheels of {wheels}")
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, required=True, help="folder of the wheels")
    parser.add_argument("--out", type=Path, required=True, help="lines of text, .txt.gz")
    args = parser.parse_args(argv)
    chance = random.Random(0)
    lines = []
    for language, some in sorted(collect(args.wheels).items()):
        left, count = CHARACTERS * (3 if language in SPOKEN else 1), 0
        for text in chance.sample(sorted(some), len(some)):
            if (left := left - len(text)) < 0:
                break
            lines.append(text)
            count += 1
        print(f"{language}: {count} lines")
    chance.shuffle(lines)
    with whole(args.out) as path, gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)


if __name__ == "__main__":
    command(main)
