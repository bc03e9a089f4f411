"""The intermediate representations of graphc: typed graphs and kernels, with text that round-trips."""

from graphc.ir import graph as _graph
from graphc.ir import kernel as _kernel
from graphc.ir import ops as ops
from graphc.ir.builder import Builder
from graphc.ir.errors import CompileError, Error, LoadError, MissingToolError, TraceError, VerifyError
from graphc.ir.families import REGISTRY
from graphc.ir.graph import Graph, Location, Op, Value
from graphc.ir.kernel_parser import parse_kernel
from graphc.ir.kernel_printer import kernel_text
from graphc.ir.kernel_verifier import verify_kernel
from graphc.ir.networkx_export import to_networkx
from graphc.ir.parser import parse
from graphc.ir.printer import graph_text
from graphc.ir.types import DTYPES, DType, TensorType
from graphc.ir.verifier import verify

_graph.register_services(graph_text, verify, to_networkx)
_kernel.register_printer(kernel_text)

__all__ = [
    "DTYPES",
    "REGISTRY",
    "Builder",
    "CompileError",
    "DType",
    "Error",
    "Graph",
    "LoadError",
    "Location",
    "MissingToolError",
    "Op",
    "TensorType",
    "TraceError",
    "Value",
    "VerifyError",
    "graph_text",
    "kernel_text",
    "parse",
    "parse_kernel",
    "to_networkx",
    "verify",
    "verify_kernel",
]
