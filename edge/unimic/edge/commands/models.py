"""``unimic models``: what is installed, and whether it can be trusted."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from unimic.codec.errors import ExactnessError, InvalidInput, UnimicError
from unimic.codec.store import Entry, ModelStore
from unimic.edge.console import common_options, progress, report

if TYPE_CHECKING:
    from unimic.codec.exactness import Comparison, Executor


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
    verifying.add_argument("--device", action="append", default=[], metavar="NAME",
                           help="check PyTorch on this device too (cpu, cuda, cuda:1 …); may be "
                           "repeated")
    verifying.add_argument("--frequencies", type=int, default=0, metavar="N",
                           help="compare so many frequencies of random sequences between each "
                           "executor and the first, for each model, and print their digest, which "
                           "is the same on every machine for the same N; 10000000 take minutes")
    verifying.set_defaults(run=verify_models)


def list_models(args: argparse.Namespace) -> None:
    """List the models."""
    store = ModelStore.default()
    models = [{**_describe(entry), "fits": store.fits(entry.name)}
              for entry in store.entries.values()]
    lines = [f"{store.folder}, token space {store.space().id.hex()}"]
    for model in models:
        lines.append(f"  {model['name']:<16} {model['id']}  {model['bytes'] / 2**20:6.2f} MiB"
                     + ("" if model["fits"] else "  made for other tokenizers: not used"))
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
    if args.frequencies < 0:
        raise InvalidInput("--frequencies", f"is {args.frequencies}", "use 1 or more")
    store = ModelStore.default()
    results = []
    for name in store.entries:
        for check, run in _checks(store, name, args):
            detail, error = None, None
            try:
                detail = run()
            except UnimicError as failure:
                error = str(failure)
            results.append({"model": name, "check": check, "ok": error is None, "error": error,
                            "detail": detail})
    lines = [f"{'ok    ' if r['ok'] else 'FAILED'}  {r['model']}: {r['check']}"
             + (f": {r['error'] or r['detail']}" if r["error"] or r["detail"] else "")
             for r in results]
    report(args, {"checks": results}, answer="\n".join(lines))
    return 0 if all(result["ok"] for result in results) else 1


def _checks(store: ModelStore, name: str, args: argparse.Namespace,
            ) -> Iterator[tuple[str, Callable[[], str | None]]]:
    from unimic.codec.exactness import compare, device_executors, onnx_executors
    from unimic.codec.networks import IMAGE_ENTROPY, TEXT_ENTROPY, check_bounds, check_golden

    yield "sizes and hashes of its files", lambda: store.verify(name)
    if name not in (IMAGE_ENTROPY, TEXT_ENTROPY):
        return
    yield "every sum stays exact", lambda: check_bounds(store, name)
    executors: list[Executor] = []

    def load() -> None:
        executors.extend(onnx_executors(store, name))

    yield "its networks can be loaded", load
    if not executors:
        return
    executors += device_executors(store, name, args.device)
    for executor in {id(e.network): e for e in executors}.values():
        def golden(executor: Executor = executor) -> None:
            check_golden(store, name, executor.network)

        yield f"golden vectors, {executor.software}", golden
    if not args.frequencies:
        return
    with progress(f"{name} frequencies") as show:
        found, digest = compare(name, executors[0], executors[1:], args.frequencies, show)
    yield "digest of frequencies", lambda: digest
    for result in found:
        def same(result: Comparison = result) -> str:
            if result.differing:
                raise ExactnessError(name, f"{result.differing:,} of {result.compared:,} "
                                     "frequencies differ", "do not code with this executor")
            return f"0 of {result.compared:,} differ"

        yield f"frequencies, {result.name}", same
