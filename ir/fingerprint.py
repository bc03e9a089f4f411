"""What a graph computes, as a digest: equal for graphs that one compiled program serves.

Ops with their attributes, operands and marks, inputs with types and roles, outputs and aliases are
part of it; names are not, and of locations only which ops share one, so that a program that was
compiled for one graph can name the lines of another.
"""

from __future__ import annotations

import hashlib

from graphc.ir.attributes import Dense
from graphc.ir.graph import Graph, Location, Value
from graphc.ir.printer import dim_symbols
from graphc.ir.records import dataclass

__all__ = ["Fingerprint", "fingerprint"]


@dataclass(frozen=True)
class Fingerprint:
    """The digest of a graph, and its distinct locations in order of their first op."""

    digest: str
    locations: tuple[Location, ...]


class _Writer:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.numbers: dict[Value, int] = {}
        self.locations: dict[Location | None, int] = {None: 0}
        self.own = True

    def graph(self, graph: Graph) -> None:
        numbers, lines, locations = self.numbers, self.lines, self.locations
        for value in graph.inputs:
            numbers[value] = len(numbers)
            lines.append(f"{value.type} {value.role}")
        for op in graph.ops:
            operands = [numbers[v] for v in op.operands]
            loc = locations.setdefault(op.loc, len(locations))
            attrs = op.attrs
            if attrs:
                for value in attrs.values():
                    if type(value) is Dense:
                        attrs = {k: _short(v) for k, v in attrs.items()}
                        break
            cls = type(op)
            if not cls.__module__.startswith("graphc."):
                self.own = False
            lines.append(f"{op.name}{attrs}{operands}{op.mark}@{loc}")
            for region in op.regions:
                lines.append("{")
                self.graph(region)
                lines.append("}")
            for result in op.results:
                numbers[result] = len(numbers)
        lines.append(f"{[numbers[v] for v in graph.outputs]} {sorted(graph.aliases.items())}")


def _short(value: object) -> object:
    """A big array by its digest."""
    if isinstance(value, Dense):
        array = value.array
        return (array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).hexdigest())
    return value


def fingerprint(graph: Graph) -> Fingerprint | None:
    """The digest of a graph; None where it holds an op that is defined outside of graphc.

    Attributes are immutable values whose `repr` says all of them; result types follow from
    operand types and attributes.
    """
    writer = _Writer()
    if not all(v.type.is_static for v in graph.inputs):
        writer.lines.append(str([(s.name, s.lo, s.hi) for _, s in sorted(dim_symbols(graph).items())]))
    writer.graph(graph)
    if not writer.own:
        return None
    del writer.locations[None]
    digest = hashlib.sha256("\n".join(writer.lines).encode()).hexdigest()
    return Fingerprint(digest, tuple(x for x in writer.locations if x is not None))
