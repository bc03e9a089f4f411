"""Inference rows on ONNX Runtime and OpenVINO: PyTorch's model, exported to ONNX, run from NumPy arrays."""

from __future__ import annotations

import importlib
import os
import tempfile
from typing import Any

from tests.benchmarks.frameworks import framework
from tests.benchmarks.workloads import Work, Workload

__all__ = ["build"]


def build(peer: str, workload: Workload, threads: int) -> Work:
    """The row's model on `onnxruntime` or `openvino`, on `threads` threads, latency mode."""
    torch = importlib.import_module("torch")
    importlib.import_module("onnxscript")
    work = workload.build(framework("torch eager", threads))
    arrays = [t.numpy() for t in work.inputs]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        torch.onnx.export(work.model, work.inputs, path, dynamo=True, external_data=True, verbose=False)
        made = _onnxruntime if peer == "onnxruntime" else _openvino
        return made(path, arrays, threads)


def _onnxruntime(path: str, arrays: list[Any], threads: int) -> Work:
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    fed = {i.name: a for i, a in zip(session.get_inputs(), arrays, strict=True)}
    return Work(lambda: session.run(None, fed))


def _openvino(path: str, arrays: list[Any], threads: int) -> Work:
    openvino: Any = importlib.import_module("openvino")
    properties = {
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": "1", "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }  # fmt: skip
    model = openvino.Core().compile_model(path, "CPU", properties)
    request = model.create_infer_request()
    fed = dict(enumerate(arrays))
    return Work(lambda: request.infer(fed, share_inputs=True, share_outputs=True))
