"""An op with regions between graph and program: where its operands lie, and the kernels of each region."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from graphc.ir.control import Control, Loop
from graphc.ir.graph import Value
from graphc.ir.kernel import Kernel
from graphc.ir.program import Check
from graphc.ir.records import dataclass
from graphc.passes.fuse.blocks import Block, block_of
from graphc.passes.fuse.groups import Fused, Group
from graphc.passes.lower.group import Lowered, lower

__all__ = ["LoweredControl", "LoweredRegion", "kernels_of", "lower_any"]


@dataclass(frozen=True)
class LoweredRegion:
    """What one run of a region runs, in the order of the groups of `body`."""

    body: Fused
    steps: tuple[Lowered | LoweredControl, ...]


@dataclass(frozen=True)
class LoweredControl:
    """`operands` are blocks in memory, one for each operand of `op`; `regions` are those of `op`.

    With several `instances` a loop is run that often, at once, each time with an equal part of the first axis
    of everything that it carries, reads slice by slice and puts out; its region is that of a part.
    """

    op: Control
    operands: tuple[Block, ...]
    regions: tuple[LoweredRegion, ...]
    instances: int = 1

    @property
    def loop(self) -> Loop:
        """The op where it is a loop of known length."""
        assert isinstance(self.op, Loop)
        return self.op

    @property
    def body(self) -> Fused:
        """The groups of the only region."""
        (region,) = self.regions
        return region.body

    @property
    def steps(self) -> tuple[Lowered | LoweredControl, ...]:
        """What a run of the only region runs."""
        (region,) = self.regions
        return region.steps

    @property
    def checks(self) -> tuple[Check, ...]:
        """Checks of all kernels of the regions."""
        return tuple(check for region in self.regions for step in region.steps for check in step.checks)

    def with_steps(self, steps: Sequence[Sequence[Lowered | LoweredControl]]) -> LoweredControl:
        """The same op with other kernels in its regions: scheduled ones."""
        regions = tuple(LoweredRegion(r.body, tuple(s)) for r, s in zip(self.regions, steps, strict=True))
        return dataclasses.replace(self, regions=regions)


def lower_any(fused: Fused, group: Group) -> Lowered | LoweredControl:
    """The unscheduled kernel of a group, or those of an op's regions."""
    if group.control is None:
        return lower(fused, group)
    outputs: set[Value] = fused.graph.output_uses()
    computed = {n.op for g in fused.groups for n in g.members}
    operands = tuple(block_of(v, outputs, computed) for v in group.control.operands)
    regions = [LoweredRegion(b, tuple(lower_any(b, g) for g in b.groups)) for b in group.bodies]
    return LoweredControl(group.control, operands, tuple(regions))


def kernels_of(lowered: Lowered | LoweredControl) -> Iterator[Kernel]:
    """The kernel, or those of all regions."""
    if isinstance(lowered, LoweredControl):
        for region in lowered.regions:
            for step in region.steps:
                yield from kernels_of(step)
    else:
        yield lowered.kernel
