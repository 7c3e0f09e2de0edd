"""``unimic serve``."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import re
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

from unimic.cloud.backends.base import backend_names, load_backend
from unimic.cloud.batching import THREADS
from unimic.cloud.coding import Together
from unimic.cloud.metrics import Metrics
from unimic.cloud.networks import check_device, load_device_coder
from unimic.cloud.server import Server, ServerOptions, ServerTls
from unimic.codec.errors import InvalidInput
from unimic.codec.limits import Limits
from unimic.codec.store import ModelStore
from unimic.codec.text import TextTokenizer

log = logging.getLogger(__name__)
END_SECONDS = 1
"""A backend that calls ``watch`` has noticed by then, mostly, that nobody waits any more."""


def add_serve(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the ``serve`` command; its ``run`` takes the parsed options, returns the exit code."""
    defaults = ServerOptions()
    parser = subparsers.add_parser(
        "serve", help="run the cloud service",
        description="Run the cloud service until SIGTERM or SIGINT. Prints one line, "
        "'listening on HOST:PORT', when it is ready.")
    parser.add_argument("--backend", default="compact", metavar="NAME",
                        help=f"the model: {', '.join(backend_names()) or 'none is installed'} "
                        "(default: %(default)s)")
    parser.add_argument("--weights", metavar="PATH",
                        help="the backend's weights, if not those that ship with it")
    parser.add_argument("--device", default="cpu",
                        help="where backend and entropy models compute: cpu, cuda, cuda:1 … "
                        "(default: %(default)s)")
    parser.add_argument("--host", default=defaults.host,
                        help="address to listen on; 0.0.0.0 or :: for all (default: %(default)s)")
    parser.add_argument("--port", type=int, default=defaults.port,
                        help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=defaults.workers, metavar="N",
                        help="batches computed at a time (default: %(default)s)")
    parser.add_argument("--sessions", type=int, default=defaults.sessions, metavar="N",
                        help="sessions served at a time (default: %(default)s)")
    parser.add_argument("--grace", type=float, default=defaults.grace, metavar="SECONDS",
                        help="time to finish running work at the end (default: %(default)g)")
    parser.add_argument("--limit", action="append", default=[], metavar="NAME=N",
                        help="what a client may ask for; may be repeated. Names and defaults: "
                        + ", ".join(f"{name}={value}" for name, value in vars(Limits()).items()))
    parser.add_argument("--metrics-port", type=int, metavar="PORT",
                        help="answer Prometheus there, at /metrics of the same host, in plain HTTP "
                        "(default: nowhere)")
    tls = parser.add_argument_group("TLS", "PEM files; without them the service speaks plain text")
    tls.add_argument("--tls-cert", type=Path, metavar="FILE", help="the server's certificate chain")
    tls.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key")
    tls.add_argument("--tls-client-ca", type=Path, metavar="FILE",
                     help="let in only clients with a certificate signed by this authority")
    parser.add_argument("-v", "--verbose", action="count", default=0,
                        help="log sessions and requests; twice: what libraries tell, too")
    parser.set_defaults(run=serve, log_format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def serve(options: argparse.Namespace) -> int:
    """Run the server that the options describe; the exit code.

    Raises:
        UnimicError: an option is wrong, or a model is not here.
    """
    chosen, limits = _server_options(options), _limits(options.limit)
    check_device(options.device)
    store = ModelStore.default()
    backend = load_backend(options.backend, store, options.device, options.weights)
    coder = load_device_coder(store, options.device, Together())
    text = TextTokenizer.of(store)

    metrics = Metrics()
    _allow_many_connections()

    async def run() -> None:
        server = Server(backend, coder, text, limits, chosen, metrics)
        await server.run_until_signal(lambda address: print(f"listening on {address}", flush=True))

    with (contextlib.nullcontext() if options.metrics_port is None
          else metrics.served(options.host, options.metrics_port)):
        asyncio.run(run())
        for number in (signal.SIGTERM, signal.SIGINT):  # it has ended as it was told to
            signal.signal(number, signal.SIG_IGN)
    _leave_the_backend()
    return 0


def _leave_the_backend() -> None:
    """End the process if a backend goes on computing what was given up, as one that does not call
    ``watch`` does: Python would wait for its thread."""
    workers = [thread for thread in threading.enumerate() if thread.name.startswith(THREADS)]
    for worker in workers:
        worker.join(END_SECONDS)
    if any(worker.is_alive() for worker in workers):
        log.warning("the backend goes on with what was given up: its process is ended")
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)


def _allow_many_connections() -> None:
    """Each is an open file, of which some systems allow few unless one asks for more."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _limits(changes: list[str]) -> Limits:
    limits = Limits()
    for change in changes:
        name, _, value = change.partition("=")
        if name not in vars(limits) or not (
                re.fullmatch("[0-9]{1,10}", value) and 0 < int(value) < 1 << 31):
            raise InvalidInput("--limit", f"{change!r} is not a limit", "use NAME=N with one of "
                               f"{', '.join(vars(limits))} and a number from 1")
        limits = replace(limits, **{name: int(value)})
    return limits


def _server_options(options: argparse.Namespace) -> ServerOptions:
    for name, least, most in (("port", 0, 65535), ("metrics-port", 1, 65535), ("workers", 1, 1024),
                              ("sessions", 1, 1 << 20), ("grace", 0, 86400)):
        value = getattr(options, name.replace("-", "_"))
        if value is not None and not least <= value <= most:
            raise InvalidInput(f"--{name}", f"{value} is out of range", f"use {least} to {most}")
    if options.metrics_port == options.port:
        raise InvalidInput("--metrics-port", f"{options.port} is the service's own",
                           "use another one")
    cert, key, client_ca = options.tls_cert, options.tls_key, options.tls_client_ca
    if bool(cert) != bool(key) or (client_ca and not cert):
        raise InvalidInput("--tls-cert", "TLS needs a certificate and its key",
                           "give both --tls-cert and --tls-key")
    tls = ServerTls(cert, key, client_ca) if cert else None
    return ServerOptions(options.host, options.port, tls, options.workers, options.sessions,
                         options.grace)
