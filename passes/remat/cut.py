"""What to keep across a point of a graph: a minimum cut with bytes as capacities.

Each value is an edge from a node of its own to another, with its bytes as capacity; from each operand of an op that may
run again an edge without limit leads to its results. Whatever is read behind the point is joined to the sink, what
cannot be computed again to the source: the cut is the least memory from which the rest can be computed.
The network is solved by networkx.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from graphc.ir.graph import Op, Value
from graphc.ir.lazy import lazy_module
from graphc.passes.free import bytes_of

if TYPE_CHECKING:
    import networkx
else:
    networkx = lazy_module("networkx")  # takes longer to import than all passes together

__all__ = ["kept_values"]

_SOURCE, _SINK = "source", "sink"


def kept_values(
    wanted: Collection[Value],
    free: Callable[[Value], bool],
    fixed: Callable[[Op, Value], bool],
) -> set[Value]:
    """The values to be kept so that all `wanted` ones can be computed, of least bytes together.

    `free` values are there anyway; an op's result is `fixed` where it must not be computed again.
    """
    numbers: dict[Value, int] = {}
    network = networkx.DiGraph()
    network.add_node(_SOURCE)
    network.add_node(_SINK)
    waiting = list(wanted)
    for v in wanted:
        numbers[v] = len(numbers)
        network.add_edge((numbers[v], 1), _SINK)
    while waiting:
        v = waiting.pop()
        n = numbers[v]
        network.add_edge((n, 0), (n, 1), capacity=0 if free(v) else bytes_of(v))
        if v.op is None or free(v) or fixed(v.op, v):
            network.add_edge(_SOURCE, (n, 0))
            continue
        for operand in dict.fromkeys(v.op.operands):
            if operand not in numbers:
                numbers[operand] = len(numbers)
                waiting.append(operand)
            network.add_edge((numbers[operand], 1), (n, 0))
    if network.out_degree(_SOURCE) == 0:
        return set()
    _, (near, _) = networkx.minimum_cut(network, _SOURCE, _SINK)
    return _cut(numbers, near)


def _cut(numbers: Mapping[Value, int], near: Collection[object]) -> set[Value]:
    return {v for v, n in numbers.items() if (n, 0) in near and (n, 1) not in near}
