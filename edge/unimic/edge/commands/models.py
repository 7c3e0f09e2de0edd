"""``unimic models``: what is installed, and whether it can be trusted."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from unimic.codec.errors import UnimicError
from unimic.codec.store import Entry, ModelStore
from unimic.edge.console import common_options, report


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``models list`` and ``models verify``."""
    parser = subparsers.add_parser(
        "models", help="list or verify the installed models",
        description="The models are those that the package ships, or those in the folder "
        "$UNIMIC_MODELS.")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    common = common_options()
    listing = actions.add_parser("list", parents=[common], help="names, sizes, figures",
                                 description="List the models: names, sizes, figures.")
    listing.set_defaults(run=list_models)
    verifying = actions.add_parser(
        "verify", parents=[common], help="hashes and exactness",
        description="Check every file's size and hash, that no sum of the entropy models can grow "
        "beyond what float32 adds exactly, and that this machine computes their golden vectors, "
        "with 1 and 2 threads, with optimisations off and on. Exits with 1 if a check fails.")
    verifying.set_defaults(run=verify_models)


def list_models(args: argparse.Namespace) -> None:
    """List the models."""
    store = ModelStore.default()
    models = [_describe(entry) for entry in store.entries.values()]
    lines = [f"{store.folder}, token space {store.space().id.hex()}"]
    for model in models:
        lines.append(f"  {model['name']:<16} {model['id']}  {model['bytes'] / 2**20:6.2f} MiB")
        if args.verbose:
            lines += [f"      {key}: {value}" for key, value in model["figures"].items()]
            lines += [f"      {key}: {model[key]}" for key in ("licence", "data", "command")]
    lines.append(f"  {'together':<34} {sum(m['bytes'] for m in models) / 2**20:6.2f} MiB")
    report(args, {"folder": str(store.folder), "space": store.space().id.hex(), "models": models},
           answer="\n".join(lines))


def _describe(entry: Entry) -> dict[str, Any]:
    return {"name": entry.name, "kind": entry.kind, "id": entry.id.hex(),
            "bytes": sum(file.bytes for file in entry.files.values()),
            "licence": entry.licence, "data": entry.data, "command": entry.command,
            "figures": dict(entry.figures)}


def verify_models(args: argparse.Namespace) -> int:
    """Run all checks; 1 if one fails."""
    store = ModelStore.default()
    results = []
    for name in store.entries:
        for check, run in _checks(store, name):
            try:
                run()
                results.append({"model": name, "check": check, "ok": True, "error": None})
            except UnimicError as error:
                results.append({"model": name, "check": check, "ok": False, "error": str(error)})
    lines = [f"{'ok    ' if r['ok'] else 'FAILED'}  {r['model']}: {r['check']}"
             + (f": {r['error']}" if r["error"] else "") for r in results]
    report(args, {"checks": results}, answer="\n".join(lines))
    return 0 if all(result["ok"] for result in results) else 1


def _checks(store: ModelStore, name: str) -> Iterator[tuple[str, Callable[[], None]]]:
    from unimic.codec.networks import (
        IMAGE_ENTROPY,
        TEXT_ENTROPY,
        OnnxImageNetwork,
        OnnxTextNetwork,
        check_bounds,
        check_golden,
    )

    yield "sizes and hashes of its files", lambda: store.verify(name)
    network = {IMAGE_ENTROPY: OnnxImageNetwork, TEXT_ENTROPY: OnnxTextNetwork}.get(name)
    if network is None:
        return
    yield "every sum stays below 2**24", lambda: check_bounds(store, name)
    for threads in (1, 2):
        for optimise in (False, True):
            check = (f"golden vectors, {threads} {'thread' if threads == 1 else 'threads'}, "
                     f"optimisations {'on' if optimise else 'off'}")

            def run(threads: int = threads, optimise: bool = optimise) -> None:
                check_golden(store, name, network(store, threads, optimise))

            yield check, run
