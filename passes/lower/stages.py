"""Which stages a group's kernel has, and in which of them each inner op is computed.

An op that spans inner axes exists only while its stage runs. Where two stages need it, a cheap op
is computed again, others are kept: in memory where they are stored anyway, in a `local` buffer
where one outer point's part is small, else in a buffer of the program.
"""

from __future__ import annotations

from dataclasses import field

from graphc.ir.dims import Symbol, plain_symbol, product, size_symbols, symbols
from graphc.ir.families import Accumulate, GraphOp, View
from graphc.ir.graph import Value
from graphc.ir.kernel import size_of
from graphc.ir.records import dataclass
from graphc.passes.fuse.groups import Group, Member, at_symbols
from graphc.passes.fuse.sources import Node

__all__ = ["LOCAL_LIMIT", "InnerStage", "StagePlan", "plan_stages"]

LOCAL_LIMIT = 64 * 1024
"""Most elements of a `local` buffer."""
CHEAP_COST = 6
"""Scalar operations up to which computing an op again beats keeping it."""


@dataclass(eq=False)
class InnerStage:
    """A stage with inner axes (symbols of the group). `reduces` is None for a map stage."""

    axes: tuple[Symbol, ...]
    reduces: Node | None
    stores: list[Node] = field(default_factory=list)
    keeps: list[Node] = field(default_factory=list)


@dataclass
class StagePlan:
    """The stages in order; `kept[node]` is the stage that keeps an op for later ones."""

    stages: list[InnerStage]
    kept: dict[Node, int]
    extra_outputs: list[Node]
    """Kept ops that need a buffer of the program although no other kernel reads them."""


def plan_stages(group: Group, outputs: set[Value]) -> StagePlan:
    """Plans the stages of a group (not a scatter)."""
    return _Planner(group, outputs).run()


class _Planner:
    def __init__(self, group: Group, outputs: set[Value]) -> None:
        self.members = dict(sorted(group.members.items(), key=lambda item: item[0].number))
        self.by_op = {n.op: n for n in self.members}
        self.outer = group.outer if group.outer is not None else frozenset().union(*group.spaces)
        self.outputs = outputs
        self.readers: dict[Node, list[Node]] = {n: [] for n in self.members}
        self.level: dict[Node, int] = {}
        for node in self.members:
            self.level[node] = self._level(node)

    def _level(self, node: Node) -> int:
        level = 0
        for read in node.reads:
            maker = self.by_op.get(read.value.op) if read.value.op is not None else None
            if maker is not None:
                self.readers[maker].append(node)
                level = max(level, self.level[maker] + isinstance(maker.op, Accumulate))
        return level

    def inner(self, member: Member) -> frozenset[Symbol]:
        return at_symbols(member.at(member.node.index)) - self.outer

    def run(self) -> StagePlan:
        reduces = [
            n for n in self.members if isinstance(n.op, Accumulate) and n.reduced and _axes(self.members[n])
        ]
        reduces.sort(key=lambda n: (self.level[n], n.number))
        plan = StagePlan([InnerStage(_axes(self.members[n]), n) for n in reduces], {}, [])
        stage_of = {s.reduces: i for i, s in enumerate(plan.stages)}
        map_stages: dict[frozenset[Symbol], int] = {}
        computed: dict[Node, set[int]] = {}
        cost: dict[Node, int] = {n: self._cost(n) for n in self.members}
        for node, member in reversed(self.members.items()):
            inner = self.inner(member)
            need = set().union(*(computed.get(r, set()) for r in self.readers[node] if r not in stage_of))
            need |= {stage_of[r] for r in self.readers[node] if r in stage_of}
            if isinstance(node.op, Accumulate) or not (inner or member.floating):
                continue
            stored = any(r in self.outputs for r in node.op.results)
            if stored:
                if not need:
                    need = {self._map_stage(plan, map_stages, member, inner)}
                plan.stages[min(need)].stores.append(node)
            if len(need) > 1 and not member.floating and cost[node] > CHEAP_COST:
                plan.kept[node] = min(need)
                if not stored:
                    self._keep(plan, node, inner)
                need = {min(need)}
            computed[node] = need
        for stage in plan.stages:
            stage.stores.reverse()
            stage.keeps.reverse()
        return plan

    def _keep(self, plan: StagePlan, node: Node, inner: frozenset[Symbol]) -> None:
        stage = plan.stages[plan.kept[node]]
        size = product([size_of(s) for s in inner])
        if isinstance(size, int) and size <= LOCAL_LIMIT:
            stage.keeps.append(node)
        else:
            stage.stores.append(node)
            plan.extra_outputs.append(node)

    def _map_stage(
        self, plan: StagePlan, made: dict[frozenset[Symbol], int], member: Member, inner: frozenset[Symbol]
    ) -> int:
        """The last stage over these inner axes."""
        if inner not in made:
            made[inner] = len(plan.stages)
            at = member.at(member.node.index)
            found = [s for s in map(plain_symbol, at) if s in inner]
            axes = [s for s in found if s is not None]
            axes += sorted(inner - set(axes), key=str)
            plan.stages.append(InnerStage(tuple(axes), None))
        return made[inner]

    def _cost(self, node: Node) -> int:
        """Scalar operations that computing one element again takes, loads included."""
        total = 0
        seen = {node}
        waiting = [node]
        while waiting and total <= CHEAP_COST:
            n = waiting.pop()
            total += _own_cost(n)
            for read in n.reads:
                maker = self.by_op.get(read.value.op) if read.value.op is not None else None
                if maker is None or isinstance(maker.op, Accumulate) or not self.inner(self.members[maker]):
                    total += 1
                elif maker not in seen:
                    seen.add(maker)
                    waiting.append(maker)
        return total


def _own_cost(node: Node) -> int:
    if isinstance(node.op, View):
        return 0
    return 1 if isinstance(node.op, GraphOp) and "cheap" in node.op.traits else CHEAP_COST + 1


def _axes(member: Member) -> tuple[Symbol, ...]:
    return tuple(
        dict.fromkeys(
            s for i in member.at(member.node.reduced) for s in sorted(symbols(i) - size_symbols(i), key=str)
        )
    )
