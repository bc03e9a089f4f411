"""Seconds from a graph to a program that can run, by number of ops: it should grow with them and no faster.

    python -m tests.benchmarks.compile_time [OPS ...]

The graph is a chain of matrix products with short elementwise parts between them, over operands of 16 × 16, so
that a handful of distinct kernels serves any length and what is timed is the passes. The cache is off.
"""

from __future__ import annotations

import os
import sys
import time

from graphc.compiler.driver import compile_graph
from graphc.ir.builder import Builder
from graphc.ir.graph import Graph
from graphc.ir.types import TensorType, float32

__all__ = ["chain"]


def chain(ops: int) -> Graph:
    """A graph of `ops` ops: repeated tanh, multiplication, maximum with a bias, matrix product."""
    graph = Graph("chain")
    kind = TensorType(float32, (16, 16))
    x, weight, bias = (graph.add_input(kind) for _ in range(3))
    b = Builder(graph)
    value = x
    for n in range(ops):
        step = n % 4
        if step == 0:
            value = b.tanh(value)
        elif step == 1:
            value = b.mul(value, bias)
        elif step == 2:
            value = b.maximum(value, x)
        else:
            value = b.dot(value, weight, contract=((1,), (0,)), batch=((), ()))
    graph.outputs = [value]
    return graph


def main() -> None:
    """Prints a line for each length."""
    os.environ["GRAPHC_CACHE_DIR"] = ""
    for ops in [int(a) for a in sys.argv[1:]] or [1000, 3000, 10000]:
        graph = chain(ops)
        start = time.perf_counter()
        compile_graph(graph)
        seconds = time.perf_counter() - start
        print(f"{ops:6} ops  {seconds:7.2f} s  {seconds / ops * 1e3:6.2f} ms an op", flush=True)


if __name__ == "__main__":
    main()
