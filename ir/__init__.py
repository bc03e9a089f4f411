"""The intermediate representations of graphc: typed graphs and kernels, with text that round-trips."""

from graphc.ir import graph as _graph
from graphc.ir import ops as ops
from graphc.ir.builder import Builder
from graphc.ir.errors import CompileError, Error, LoadError, MissingToolError, TraceError, VerifyError
from graphc.ir.families import REGISTRY
from graphc.ir.graph import Graph, Location, Op, Value
from graphc.ir.networkx_export import to_networkx
from graphc.ir.parser import parse
from graphc.ir.printer import graph_text
from graphc.ir.types import DTYPES, DType, TensorType
from graphc.ir.verifier import verify

_graph.register_services(graph_text, verify, to_networkx)

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
    "parse",
    "to_networkx",
    "verify",
]
