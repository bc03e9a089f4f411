"""Where each instruction of a kernel belongs: at the outermost loop that determines its value.

Depths count loops: 0 is before all of them, `outer` is inside all loops of the outer axes,
more is inside the loops of the instruction's own stage. Stores, yields, and loads from buffers
that the kernel writes stay inside all loops of their stage, in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

from graphc.ir.dims import Dim, symbols
from graphc.ir.kernel import Instruction, Kernel
from graphc.ir.records import dataclass

__all__ = ["Placement", "place"]


@dataclass
class Placement:
    """Instructions by depth. `outer[d]` are those of all stages; `stages[k][d - len(outer loops)]` stage k's own."""

    outer: list[list[Instruction]]
    stages: list[list[list[Instruction]]]
    depends: dict[int, frozenset[str]] = field(default_factory=dict)
    """The axes that a scalar's value depends on."""


def place(kernel: Kernel, outer: Mapping[str, int], stages: Sequence[Mapping[str, int]]) -> Placement:
    """`outer` and `stages[k]` give for each axis the number of loops after which it is bound.

    Stage depths count from the first stage loop.
    """
    n = max(outer.values(), default=0)
    result = Placement([[] for _ in range(n)], [])
    written = {i for i, b in enumerate(kernel.buffers) if b.access != "in"}
    # What a local buffer holds belongs to one point of the outer axes, whatever the index that reads it.
    own_to_point = {i for i, b in enumerate(kernel.buffers) if b.access == "local"}
    depth: dict[int, int] = {}
    for stage, inner in zip(kernel.stages, stages, strict=True):
        last = n + max(inner.values(), default=0)
        lists: list[list[Instruction]] = [[] for _ in range(last - n + 1)]
        where = {**outer, **{a: n + d for a, d in inner.items()}}
        inside: set[str] = set()
        for i in stage.body:
            names = _axes(i, result.depends)
            if i.opcode == "load" and i.buffer in own_to_point:
                names |= outer.keys()
            pinned = i.opcode in ("store", "yield") or (i.opcode == "load" and i.buffer in written)
            at = max(
                [where[a] for a in names if a in where]
                + [depth[o] for o in i.operands]
                + [depth[int(s[1:])] for s in _names(i) if s.startswith("%")],
                default=0,
            )
            at = last if pinned else at
            if i.id >= 0:
                depth[i.id] = at
                result.depends[i.id] = names
            inside |= names
            (result.outer[at] if at < n else lists[at - n]).append(i)
        own = {a.name for a in stage.axes}
        for number in stage.results:
            depth[number] = n
            result.depends[number] = frozenset(inside - own)
        result.stages.append(lists)
    return result


def _dims(i: Instruction) -> list[Dim]:
    return [*i.index, *(d for guard in i.guards for d in guard)]


def _names(i: Instruction) -> set[str]:
    return {s.name for d in _dims(i) for s in symbols(d)}


def _axes(i: Instruction, depends: Mapping[int, frozenset[str]]) -> frozenset[str]:
    """Axes that an instruction depends on, through operands and `to_index` symbols too."""
    result: set[str] = set()
    for name in _names(i):
        result |= depends[int(name[1:])] if name.startswith("%") else {name}
    for o in i.operands:
        result |= depends[o]
    return frozenset(result)
