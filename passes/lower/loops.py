"""A loop between graph and program: where its operands lie, and the kernels of one step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from graphc.ir.control import Loop
from graphc.ir.graph import Value
from graphc.ir.kernel import Kernel
from graphc.ir.program import Check
from graphc.passes.fuse.blocks import Block, block_of
from graphc.passes.fuse.groups import Fused, Group
from graphc.passes.lower.group import Lowered, lower

__all__ = ["LoweredLoop", "kernels_of", "lower_loop"]


@dataclass(frozen=True)
class LoweredLoop:
    """`operands` are blocks in memory, one for each operand of `op`; `steps` is what one step runs, in
    the order of the groups of `body`.

    With several `instances` the loop is run that often, at once, each time with an equal part of the first axis
    of everything that it carries, reads slice by slice and puts out; `body` and `steps` are those of a part.
    """

    op: Loop
    operands: tuple[Block, ...]
    body: Fused
    steps: tuple[Lowered | LoweredLoop, ...]
    instances: int = 1

    @property
    def checks(self) -> tuple[Check, ...]:
        """Checks of all kernels of a step."""
        return tuple(check for step in self.steps for check in step.checks)

    def with_steps(self, steps: Sequence[Lowered | LoweredLoop]) -> LoweredLoop:
        """The same loop with other kernels: scheduled ones."""
        return dataclasses.replace(self, steps=tuple(steps))


def lower_loop(fused: Fused, group: Group) -> Lowered | LoweredLoop:
    """The unscheduled kernel of a group, or those of a loop."""
    if group.loop is None:
        return lower(fused, group)
    assert group.body is not None
    outputs: set[Value] = fused.graph.output_uses()
    computed = {n.op for g in fused.groups for n in g.members}
    operands = tuple(block_of(v, outputs, computed) for v in group.loop.operands)
    steps = tuple(lower_loop(group.body, g) for g in group.body.groups)
    return LoweredLoop(group.loop, operands, group.body, steps)


def kernels_of(lowered: Lowered | LoweredLoop) -> Iterator[Kernel]:
    """The kernel, or those of all steps of a loop."""
    if isinstance(lowered, LoweredLoop):
        for step in lowered.steps:
            yield from kernels_of(step)
    else:
        yield lowered.kernel
