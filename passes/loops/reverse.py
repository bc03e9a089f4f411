"""The reverse-mode rule of loops: a loop in the other direction over what the forward steps kept.

The region is differentiated like a whole program and split in two. The forward part replaces the
region; what the backward part needs of it becomes further outputs and histories. The backward part is the
region of a second loop, which carries the cotangents of the carried values. Cotangents of constants are
sums over all steps: where they are products, of one product after the loop (see `sums`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from graphc.ir.builder import Builder
from graphc.ir.control import Loop
from graphc.ir.graph import Value, clone_ops
from graphc.passes.differentiate import register_control
from graphc.passes.gradients import blocked_values
from graphc.passes.loops.parts import LoopBuild, entries
from graphc.passes.loops.sums import StepSums
from graphc.passes.split import SplitJoint, split_joint

__all__ = ["LoopDerivative"]


class _Kept(NamedTuple):
    """A value that the backward steps need: slice by slice, or the same in every step."""

    value: Value
    sliced: bool


class LoopDerivative:
    """The derivative of one loop. Making it puts the loop that keeps residuals just before `loop`.

    `active` says which operands cotangents are wanted of, `wanted` which results may have one.
    `values` are what to use in place of the results of `loop`.
    """

    def __init__(self, loop: Loop, active: Sequence[bool], wanted: Sequence[bool]) -> None:
        assert loop.graph is not None
        self.loop = loop
        body = loop.body
        n = loop.carries
        self.blocked = blocked_values(body)
        self.active = self._active_inputs(active)
        self.roots = [
            i
            for i, v in enumerate(body.outputs)
            if (self.active[i] if i < n else wanted[i] and v.type.dtype.is_floating_point)
        ]
        self.wrt = [i for i, on in enumerate(self.active) if on]
        self.split: SplitJoint = split_joint(
            body,
            [body.outputs[i] for i in self.roots],
            [body.inputs[i] for i in self.wrt],
            blocked=self.blocked,
        )
        b = Builder(loop.graph, before=loop, loc=loop.loc)
        self.forward = self._forward(b)
        self.forward.mark = loop.mark
        self.values = tuple(self._result(b, i) for i in range(len(loop.results)))

    def _active_inputs(self, active: Sequence[bool]) -> list[bool]:
        """Inputs of the region that depend on an active operand."""
        body, n = self.loop.body, self.loop.carries
        found = [on and v.type.dtype.is_floating_point for on, v in zip(active, body.inputs, strict=True)]
        while True:
            reached = {v for v, on in zip(body.inputs, found, strict=True) if on}
            for op in body.ops:
                if any(v in reached for v in op.operands):
                    reached.update(
                        r for r in op.results if r.type.dtype.is_floating_point and r not in self.blocked
                    )
            more = [i for i in range(n) if body.outputs[i] in reached and not found[i]]
            if not more:
                return found
            for i in more:
                found[i] = True

    # -- forward --------------------------------------------------------------------------

    def _forward(self, b: Builder) -> Loop:
        loop, n = self.loop, self.loop.carries
        history = set(loop.attrs["history"])
        for _kind, i in self.split.sources:
            if i < n:
                history.add(i)
        attrs = {
            **loop.attrs,
            "outputs": tuple(v.type for v in self.split.forward.outputs[n:]),
            "history": tuple(sorted(history)),
        }
        op = b.create(type(loop), loop.operands, [self.split.forward.copy(loop.body.name)], **attrs)
        assert isinstance(op, Loop)
        return op

    def _result(self, b: Builder, i: int) -> Value:
        """What stands for result i of the loop."""
        new = self.forward.results[i]
        if i >= self.loop.carries or self.loop.is_history(i) or not self.forward.is_history(i):
            return new
        return entries(b, self.forward, i).last

    def _kept(self, b: Builder) -> list[_Kept]:
        """The values behind the sources of the backward region, in order."""
        loop, n, m = self.loop, self.loop.carries, self.loop.attrs["slices"]
        found = []
        for kind, i in self.split.sources:
            if i < n:
                past = entries(b, self.forward, i)
                found.append(_Kept(past.before if kind == "input" else past.after, True))
            elif kind == "input":
                found.append(_Kept(loop.operands[i], i < n + m))
            else:
                found.append(_Kept(self.forward.results[i], True))
        return found

    # -- backward -------------------------------------------------------------------------

    def cotangents(self, b: Builder, incoming: Sequence[Value | None]) -> list[Value | None]:
        """Cotangents of the operands, from those of the results, built with `b`."""
        loop, n = self.loop, self.loop.carries
        build = LoopBuild(b, loop, reverse=not loop.attrs["reverse"])
        kept = [build.slice(k.value) if k.sliced else build.constant(k.value) for k in self._kept(b)]
        seeds: list[Value] = []
        starts: dict[int, Value] = {}
        carried: dict[int, Value] = {}
        for i in self.roots:
            given = incoming[i]
            if i >= n:
                seeds.append(self._zeros(build, i) if given is None else build.slice(given))
                continue
            type_ = loop.body.inputs[i].type
            if given is not None and loop.is_history(i):
                past = entries(b, loop, i, given)
                starts[i] = past.first
                carried[i] = build.carry(b.zeros_like(type_))
                seeds.append(build.inside.add(carried[i], build.slice(past.after)))
            else:
                carried[i] = build.carry(b.zeros_like(type_) if given is None else given)
                seeds.append(carried[i])
        backward = self.split.backward
        mapping = dict(zip(backward.inputs, [*kept, *seeds], strict=True))
        clone_ops(backward.ops, build.body, mapping)
        gradients = [None if at is None else mapping[backward.outputs[at]] for at in self.split.gradients]
        found: dict[int, Callable[[], Value]] = {}
        sums = StepSums(build)
        for i, gradient in zip(self.wrt, gradients, strict=True):
            if i < n:
                after = self._zeros(build, i) if gradient is None else gradient
                found[i] = build.carried(carried[i], after)
            elif gradient is not None:
                sliced = i < n + loop.attrs["slices"]
                found[i] = build.output(gradient) if sliced else sums.total(gradient)
        build.finish()
        results: list[Value | None] = [None] * len(loop.operands)
        for i, value in found.items():
            results[i] = value()
            if i in starts:
                results[i] = b.add(results[i], starts[i])
        return results

    def _zeros(self, build: LoopBuild, i: int) -> Value:
        return build.inside.zeros_like(self.loop.body.outputs[i].type)


register_control(Loop, LoopDerivative)
