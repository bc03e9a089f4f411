"""Branches: their derivative, and what makes them small.

The derivative of a branch is a branch by the same predicate. Each region is differentiated like a whole program
and split in two; what the backward parts need becomes further results of the forward branch. Two residuals of
one type, one of each region, share a result; a region without a residual for a result gives zeros, which nobody
reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from graphc.ir.builder import Builder
from graphc.ir.control import Branch
from graphc.ir.families import Creation
from graphc.ir.graph import Graph, Value, clone_ops
from graphc.ir.records import dataclass
from graphc.ir.types import TensorType
from graphc.passes.base import GraphPass
from graphc.passes.dce import eliminate_dead_ops
from graphc.passes.differentiate import register_control
from graphc.passes.gradients import blocked_values
from graphc.passes.rewrite import Rewriter
from graphc.passes.split import SplitJoint, split_joint

__all__ = ["BranchDerivative", "SimplifyBranches"]


class BranchDerivative:
    """The derivative of one branch. Making it puts the branch that keeps residuals just before `op`.

    `active` says which operands cotangents are wanted of, `wanted` which results may have one.
    `values` are what to use in place of the results of `op`.
    """

    def __init__(self, op: Branch, active: Sequence[bool], wanted: Sequence[bool]) -> None:
        assert op.graph is not None
        self.op = op
        self.roots = [i for i, r in enumerate(op.results) if wanted[i] and r.type.dtype.is_floating_point]
        self.wrt = [i for i, v in enumerate(op.given) if active[i + 1] and v.type.dtype.is_floating_point]
        self.splits: list[SplitJoint] = [
            split_joint(
                region,
                [region.outputs[i] for i in self.roots],
                [region.inputs[i] for i in self.wrt],
                blocked=blocked_values(region),
            )
            for region in op.regions
        ]
        self.slots: list[TensorType] = []
        """Types of the results that residuals are kept in."""
        self.slot_of = [self._slots(split) for split in self.splits]
        b = Builder(op.graph, before=op, loc=op.loc)
        regions = [self._region(s, taken) for s, taken in zip(self.splits, self.slot_of, strict=True)]
        outputs = (*op.attrs["outputs"], *self.slots)
        made = b.create(type(op), op.operands, regions, **{**op.attrs, "outputs": outputs})
        made.mark = op.mark
        self.forward = made
        self.values = made.results[: len(op.results)]

    def _slots(self, split: SplitJoint) -> list[int]:
        """For each residual of a region a slot of its type."""
        taken: list[int] = []
        for v in split.forward.outputs[len(self.op.results) :]:
            free = (i for i, t in enumerate(self.slots) if t == v.type and i not in taken)
            at = next(free, len(self.slots))
            if at == len(self.slots):
                self.slots.append(v.type)
            taken.append(at)
        return taken

    def _region(self, split: SplitJoint, taken: Sequence[int]) -> Graph:
        """A region that returns its results, then its residuals in their slots."""
        region = split.forward.copy()
        n = len(self.op.results)
        kept = dict(zip(taken, region.outputs[n:], strict=True))
        b = Builder(region, loc=self.op.loc)
        filled = [kept[i] if i in kept else b.zeros_like(t) for i, t in enumerate(self.slots)]
        region.outputs = [*region.outputs[:n], *filled]
        return region

    def _sources(self, split: SplitJoint, taken: Sequence[int]) -> list[Value]:
        """The values that a backward region reads, in the order of its inputs before the cotangents."""
        found, n = [], len(self.op.results)
        for kind, i in split.sources:
            if kind == "input":
                found.append(self.op.given[i])
            else:
                found.append(self.forward.results[i if i < n else n + taken[i - n]])
        return found

    def cotangents(self, b: Builder, incoming: Sequence[Value | None]) -> list[Value | None]:
        """Cotangents of the operands, from those of the results, built with `b`."""
        results: list[Value | None] = [None] * len(self.op.operands)
        reached = [
            k for k in range(len(self.wrt)) if any(split.gradients[k] is not None for split in self.splits)
        ]
        if not reached:
            return results
        sources = [self._sources(s, taken) for s, taken in zip(self.splits, self.slot_of, strict=True)]
        seeds = [incoming[i] for i in self.roots]
        read = dict.fromkeys([*sources[0], *sources[1], *(s for s in seeds if s is not None)])
        regions = []
        for split, mine in zip(self.splits, sources, strict=True):
            regions.append(self._backward(split, list(read), mine, seeds, reached))
        types = tuple(self.op.given[self.wrt[k]].type for k in reached)
        made = b.create(type(self.op), [self.op.predicate, *read], regions, outputs=types)
        for k, value in zip(reached, made.results, strict=True):
            results[self.wrt[k] + 1] = value
        return results

    def _backward(
        self,
        split: SplitJoint,
        read: Sequence[Value],
        sources: Sequence[Value],
        seeds: Sequence[Value | None],
        reached: Sequence[int],
    ) -> Graph:
        region = Graph(split.backward.name)
        inputs = {v: region.add_input(v.type) for v in read}
        b = Builder(region, loc=self.op.loc)
        given = [inputs[v] for v in sources]
        for i, seed in zip(self.roots, seeds, strict=True):
            given.append(b.zeros_like(self.op.results[i].type) if seed is None else inputs[seed])
        mapping = dict(zip(split.backward.inputs, given, strict=True))
        clone_ops(split.backward.ops, region, mapping)
        for k in reached:
            at = split.gradients[k]
            zero = at is None
            region.outputs.append(
                b.zeros_like(self.op.given[self.wrt[k]].type)
                if zero
                else mapping[split.backward.outputs[at or 0]]
            )
        return region


register_control(Branch, BranchDerivative)


@dataclass(frozen=True)
class SimplifyBranches(GraphPass):
    """Makes every branch of a graph smaller: what nobody uses is not computed, what both regions take from the
    same place is not passed through, and a branch whose predicate is known is the region that it chooses."""

    name: ClassVar[str] = "simplify_branches"

    def apply(self, graph: Graph) -> bool:
        changed = False
        for op in list(graph.ops):
            if isinstance(op, Branch) and op.graph is graph:
                rewriter = Rewriter(graph)
                changed = _inline(op, rewriter) or _shrink(op, rewriter) or changed
        return changed


def _inline(op: Branch, rewriter: Rewriter) -> bool:
    """Puts the chosen region in place of a branch whose predicate is a constant."""
    maker = op.predicate.op
    if not isinstance(maker, Creation) or "value" not in maker.attrs:
        return False
    region = op.regions[0 if np.asarray(maker.attrs["value"].array).item() else 1]
    graph = rewriter.graph
    mapping = dict(zip(region.inputs, op.given, strict=True))
    for inner in region.ops:
        clone = type(inner)(
            [mapping[v] for v in inner.operands],
            inner.attrs,
            inner.result_types,
            inner.loc,
            [r.copy() for r in inner.regions],
        )
        clone.mark = inner.mark
        graph.insert(clone, op)
        mapping.update(zip(inner.results, clone.results, strict=True))
    rewriter.replace_op(op, [mapping[v] for v in region.outputs])
    return True


def _shrink(op: Branch, rewriter: Rewriter) -> bool:
    """Drops results that nobody uses or that are an operand either way, then operands that nobody reads."""
    same: dict[int, int] = {}
    for i, pair in enumerate(zip(*(r.outputs for r in op.regions), strict=True)):
        if all(v.op is None for v in pair) and pair[0].index == pair[1].index:
            same[i] = pair[0].index
    for i, j in same.items():
        rewriter.replace(op.results[i], op.given[j])
    kept = [i for i, r in enumerate(op.results) if r.uses or r in rewriter.positions]
    if len(kept) < len(op.results):
        for region in op.regions:
            region.outputs = [region.outputs[i] for i in kept]
            eliminate_dead_ops(region)
    read = [
        j
        for j in range(len(op.given))
        if any(r.inputs[j].uses or r.inputs[j] in r.outputs for r in op.regions)
    ]
    if len(kept) == len(op.results) and len(read) == len(op.given):
        return bool(same)
    if kept:
        graph = rewriter.graph
        for region in op.regions:
            region.inputs = [region.inputs[j] for j in read]
            for j, v in enumerate(region.inputs):
                v.index = j
        b = Builder(graph, before=op, loc=op.loc)
        outputs = tuple(op.attrs["outputs"][i] for i in kept)
        operands = [op.predicate, *(op.given[j] for j in read)]
        made = b.create(type(op), operands, op.regions, **{**op.attrs, "outputs": outputs})
        made.mark = op.mark
        for i, new in zip(kept, made.results, strict=True):
            rewriter.replace(op.results[i], new)
    op.erase()
    return True
