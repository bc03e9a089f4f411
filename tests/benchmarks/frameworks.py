"""The frameworks that the benchmark compares, by peer name.

`build(peer, workload, threads)` imports the framework, limits it to `threads` and builds the row on it. A row
that a framework has no way to run raises; nothing is replaced by something else.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

from tests.benchmarks.models import Framework
from tests.benchmarks.workloads import Work, Workload

__all__ = ["MICRO_PEERS", "OURS", "PEERS", "build", "framework", "runs"]

PEERS = ("graphc", "graphc plain", "torch eager", "torch.compile", "jax", "onnxruntime", "openvino")
MICRO_PEERS = ("graphc", "torch eager")
OURS = ("graphc", "graphc plain")


def runs(peer: str, workload: Workload) -> bool:
    """Whether the row is for this peer: exported models only run inference, plain loops are for training."""
    if peer in ("onnxruntime", "openvino"):
        return workload.kind == "infer"
    if peer == "graphc plain":
        return workload.kind == "train"
    if peer == "jax":
        return workload.kind != "micro"
    return True


def framework(peer: str, threads: int) -> Framework:
    """The PyTorch-like framework named `peer`, limited to `threads`. Raises ImportError where it is missing."""
    if peer in OURS:
        graphc = importlib.import_module("graphc")
        graphc.set_num_threads(threads)
        if peer == "graphc plain":
            return Framework(graphc, graphc.nn, graphc.optim, _identity, eager=True)
        return Framework(graphc, graphc.nn, graphc.optim, graphc.compile)
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    if peer == "torch.compile":
        return Framework(torch, torch.nn, torch.optim, torch.compile)
    return Framework(torch, torch.nn, torch.optim, _identity, eager=True)


def build(peer: str, workload: Workload, threads: int) -> Work:
    """The row on the peer. `run` of the result returns when the work is done, not when it is queued."""
    os.environ["OMP_NUM_THREADS"] = os.environ["NPROC"] = str(threads)
    if peer == "jax":
        made: Work = importlib.import_module("tests.benchmarks.jax_rows").build(workload)
        return made
    if peer in ("onnxruntime", "openvino"):
        made = importlib.import_module("tests.benchmarks.exported").build(peer, workload, threads)
        return made
    work = workload.build(framework(peer, threads))
    if peer == "graphc plain":
        work.run = _realised(work.run)
    return work


def _identity(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _realised(run: Callable[[], Any]) -> Callable[[], Any]:
    """Evaluates what a plain step still has pending."""

    def realised() -> Any:
        return run().realize()

    return realised
