"""``unimic measure speed``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from unimic.codec.store import ModelStore
from unimic.edge.console import HelpFormatter, common_options, progress
from unimic.measure import outputs
from unimic.measure.commands.options import picture_files

EXAMPLES = """\
examples:
  unimic measure speed kodak/
  unimic measure speed kodak/ --threads 1 --device cuda --json
"""


def add(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action."""
    speed = actions.add_parser(
        "speed", parents=[common_options()], help="time of coding, on a device and in a service",
        epilog=EXAMPLES, formatter_class=HelpFormatter,
        description="Time the image encoder beside the entropy coder at 256×256 pixels, and count "
        "the image packets that are decoded in a second, alone and in batches of 8 and 64.")
    speed.add_argument("images", type=Path, nargs="+", metavar="IMAGE",
                       help="pictures, or folders of pictures")
    speed.add_argument("--threads", type=int, metavar="N",
                       help="for ONNX Runtime (default: its own choice)")
    speed.add_argument("--device", action="append", default=[], metavar="NAME",
                       help="time PyTorch on this device too (cpu, cuda …); may be repeated")
    speed.set_defaults(run=measure_speed)


def measure_speed(args: argparse.Namespace) -> None:
    """Measure and report."""
    from unimic.codec.coder import load_coder
    from unimic.codec.exactness import Executor, device_executors
    from unimic.codec.networks import IMAGE_ENTROPY, OnnxImageNetwork
    from unimic.edge.images import load_image
    from unimic.measure.speed import Packets, edge_speed, service_speed

    store = ModelStore.default()
    pictures = [load_image(path) for path in picture_files(args.images)]
    with progress("device") as show:
        facts: dict[str, Any] = {"one picture": edge_speed(store, pictures, args.threads, show)}
    executors = [Executor("ONNX Runtime on cpu", OnnxImageNetwork(store, args.threads), 1),
                 *{e.software: e for e in device_executors(store, IMAGE_ENTROPY, args.device)
                   }.values()]
    packets = Packets.of(store, load_coder(store), pictures)
    with progress("service") as show:
        facts |= {f"packets a second, {name}": rates
                  for name, rates in service_speed(executors, packets, show).items()}
    outputs.tell(args, facts)
