"""ONNX Runtime as the whole package uses it: on the CPU, beside others, and without telemetry."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

# Releases from 1.30 on send usage data to Microsoft and keep an identifier of the device for it,
# unless told not to before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort

Session: TypeAlias = ort.InferenceSession
Options: TypeAlias = ort.SessionOptions


def session_options(threads: int | None = None, optimise: bool = True) -> Options:
    """Options of every session, which takes turns with others on the same cores.

    Args:
        threads: of its own pool; None for ONNX Runtime's choice.
        optimise: whether the graph may be rewritten.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors are raised; its warnings mean nothing to users
    # Threads wait in a loop for the next operation. Those that do so for long, or even for the next
    # call, take the cores from whatever comes meanwhile, such as the image decoder.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.intra_op.spin_duration_us", "50")
    options.graph_optimization_level = (
        ort.GraphOptimizationLevel.ORT_ENABLE_ALL if optimise
        else ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def open_graph(graph: Path | bytes, options: Options | None = None) -> Session:
    """A session of a graph, a file or its bytes; `session_options` unless given."""
    return ort.InferenceSession(graph, options or session_options(),
                                providers=["CPUExecutionProvider"])
