"""What a pass is: a frozen dataclass whose fields are its options, known by name.

A class that derives from `Pass` and has a `name` is in `PASSES`; `graphc.passes.pipeline` spells
and reads pipelines of them as text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from graphc.ir.graph import Graph
from graphc.ir.records import dataclass
from graphc.passes.context import CompileContext

__all__ = ["PASSES", "GraphPass", "Pass", "nested_graphs"]

PASSES: dict[str, type[Pass]] = {}


@dataclass(frozen=True)
class Pass:
    """A transformation of a graph in place. Fields of subclasses have defaults and are options."""

    name: ClassVar[str] = ""
    exact: ClassVar[bool] = True
    """True where the reference gives the same bits before and after the pass."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" in cls.__dict__:
            assert cls.name not in PASSES or PASSES[cls.name].__qualname__ == cls.__qualname__, cls.name
            PASSES[cls.name] = cls

    def run(self, graph: Graph, context: CompileContext) -> bool | None:
        """Changes `graph`; False where it is certain that nothing changed."""
        raise NotImplementedError(f"{self.name}.run")


class GraphPass(Pass):
    """A pass that treats the graph of each region on its own, innermost first, like a whole graph."""

    def run(self, graph: Graph, context: CompileContext) -> bool:
        changed = False
        for g in nested_graphs(graph):
            changed = self.apply(g) or changed
        return changed

    def apply(self, graph: Graph) -> bool:
        """Changes one graph, not what is in its regions; True where something changed."""
        raise NotImplementedError(f"{self.name}.apply")


def nested_graphs(graph: Graph) -> Iterator[Graph]:
    """The graphs in the regions of `graph`, innermost first, then `graph` itself."""
    for op in graph.ops:
        for region in op.regions:
            yield from nested_graphs(region)
    yield graph
