"""Checks the invariants of kernels, scheduled or not; linear in the kernel's size.

What `graphc.ir.kernel` promises: scalars are numbered once and used where they are visible,
indices have the buffer's rank and speak of axes in scope, constant indices stay in bounds,
accumulator counts agree, checks are numbered, and a schedule gives every axis a role.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NoReturn

from graphc.ir.dims import Dim, Symbol, bounds, symbols
from graphc.ir.errors import VerifyError
from graphc.ir.kernel import Instruction, Kernel, Loop, Stage
from graphc.ir.kernel_printer import instruction_text
from graphc.ir.scalar import BINARY, COMPARE, TERNARY, UNARY
from graphc.ir.types import DType

__all__ = ["verify_kernel"]

_COUNTS = {
    **dict.fromkeys(UNARY, 1),
    **dict.fromkeys((*BINARY, *COMPARE), 2),
    **dict.fromkeys(TERNARY, 3),
    "const": 0,
    "index": 0,
    "to_index": 1,
    "cast": 1,
    "store": 1,
}


def verify_kernel(kernel: Kernel) -> None:
    """Raises `VerifyError` saying which invariant does not hold and where."""
    _Verifier(kernel).run()


class _Verifier:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.types: dict[int, DType] = {}
        self.visible: set[int] = set()
        self.numbers: set[int] = set()
        self.axes: set[str] = set()
        self.where = "kernel"

    def fail(self, message: str) -> NoReturn:
        raise VerifyError(f"{self.where}: {message}")

    def run(self) -> None:
        seen_local = False
        for n, b in enumerate(self.kernel.buffers):
            if seen_local and b.access != "local":
                self.fail(f"parameter b{n} comes after a local buffer")
            seen_local = b.access == "local"
        self.bind(self.kernel.axes)
        for n, stage in enumerate(self.kernel.stages):
            self.where = f"stage {n} ({stage.kind})"
            self.stage(stage)
        if self.kernel.links:
            self.links()
        self.where = "schedule"
        if self.kernel.schedule is not None and not self.kernel.links:
            self.schedule()

    def links(self) -> None:
        """A chain's kernels, each on buffers of its parameters' sizes; none reads a private one before it is made."""
        made: set[int] = set()
        for n, link in enumerate(self.kernel.links):
            self.where = f"link {n}"
            if self.kernel.axes or self.kernel.stages:
                self.fail("a chain has neither axes nor stages")
            verify_kernel(link.kernel)
            parameters = link.kernel.parameters
            if len(parameters) != len(link.buffers):
                self.fail(f"{len(link.buffers)} buffers for {len(parameters)} parameters")
            for number, b in zip(link.buffers, parameters, strict=True):
                if not 0 <= number < len(self.kernel.buffers):
                    self.fail(f"there is no buffer b{number}")
                own = self.kernel.buffers[number]
                if own.type.dtype is not b.type.dtype or own.type.count != b.type.count:
                    self.fail(f"b{number} is {own.type}, the parameter {b.type}")
                if own.access == "local" and b.access != "out" and number not in made:
                    self.fail(f"reads b{number} before it is made")
                if own.access == "in" and b.access != "in":
                    self.fail(f"writes b{number}, which is only read")
            made.update(n for n, b in zip(link.buffers, parameters, strict=True) if b.access != "in")

    def bind(self, axes: Sequence[Symbol]) -> None:
        for a in axes:
            if a.name in self.axes:
                self.fail(f"axis {a.name} is bound twice")
            if a.lo != 0:
                self.fail(f"axis {a.name} does not start at 0")
            self.axes.add(a.name)

    # -- stages -----------------------------------------------------------------------

    def stage(self, stage: Stage) -> None:
        before = set(self.visible)
        self.bind(stage.axes)
        yields = self.body(stage.body, stage)
        if stage.kind == "reduce":
            self.reduction(stage, yields)
        elif stage.combine is not None or stage.results or stage.init or yields is not None:
            self.fail("only a reduce stage has accumulators")
        if stage.axes:
            self.visible = before
        for a in stage.axes:
            self.axes.discard(a.name)
        for number, (dtype, _) in zip(stage.results, stage.init, strict=True):
            self.define(number, dtype)

    def reduction(self, stage: Stage, yields: Instruction | None) -> None:
        if stage.combine is None or yields is None:
            self.fail("a reduce stage needs a combine and a yield")
        how, count = stage.combine, len(stage.init)
        for what, numbers in (
            ("yield", yields.operands),
            ("left", how.left),
            ("right", how.right),
            ("combine results", how.results),
            ("results", stage.results),
        ):
            if len(numbers) != count:
                self.fail(f"{count} accumulators, but {len(numbers)} in {what}")
        for number, (dtype, _) in zip(yields.operands, stage.init, strict=True):
            if self.types[number] is not dtype:
                self.fail(f"yields {self.types[number].name} where the accumulator is {dtype.name}")
        before = set(self.visible)
        self.visible = set()
        for side in (how.left, how.right):
            for number, (dtype, _) in zip(side, stage.init, strict=True):
                self.define(number, dtype)
        self.body(how.body, None)
        for number, (dtype, _) in zip(how.results, stage.init, strict=True):
            self.use(number)
            if self.types[number] is not dtype:
                self.fail(f"combine gives {self.types[number].name} where the accumulator is {dtype.name}")
        self.visible = before

    # -- instructions -----------------------------------------------------------------

    def body(self, body: Iterable[Instruction], stage: Stage | None) -> Instruction | None:
        """Checks instructions in order; gives the yield."""
        yields: Instruction | None = None
        for i in body:
            if yields is not None:
                self.fail(f"instruction after yield: {instruction_text(i)}")
            for o in i.operands:
                self.use(o, i)
            if stage is None and i.opcode in ("load", "store", "yield", "to_index", "index"):
                self.fail(f"{i.opcode} in a combine body")
            if i.opcode == "yield":
                yields = i
                continue
            self.instruction(i, stage)
            if i.id >= 0:
                self.define(i.id, i.dtype)
            elif i.opcode != "store":
                self.fail(f"{i.opcode} has no number")
        return yields

    def instruction(self, i: Instruction, stage: Stage | None) -> None:
        counts = {_COUNTS[i.opcode]} if i.opcode in _COUNTS else {1 if i.guards else 0}
        if i.opcode not in _COUNTS and i.opcode != "load":
            self.fail(f"unknown opcode {i.opcode!r}")
        if len(i.operands) not in counts:
            self.fail(f"wrong number of operands: {instruction_text(i)}")
        for d in (*i.index, *(x for guard in i.guards for x in guard)):
            self.dim(d, i)
        match i.opcode:
            case "load" | "store":
                self.access(i, stage)
            case "to_index":
                if i.value is not None and not 0 <= i.value < self.kernel.checks:
                    self.fail(f"check {i.value} of {self.kernel.checks}")
            case "const" | "index" | "cast" | "is_nan":
                pass
            case _:
                self.scalar(i)

    def scalar(self, i: Instruction) -> None:
        types = [self.types[o] for o in i.operands]
        if i.opcode == "select" and types.pop(0).kind != "bool":
            self.fail(f"select needs a bool first: {instruction_text(i)}")
        if any(t is not types[0] for t in types):
            self.fail(f"operands of different dtypes: {instruction_text(i)}")
        expected = "bool" if i.opcode in COMPARE else types[0].name
        if i.dtype.name != expected:
            self.fail(f"result should be {expected}: {instruction_text(i)}")

    def access(self, i: Instruction, stage: Stage | None) -> None:
        if not 0 <= i.buffer < len(self.kernel.buffers):
            self.fail(f"no buffer b{i.buffer}: {instruction_text(i)}")
        buffer = self.kernel.buffers[i.buffer]
        if len(i.index) != buffer.type.rank:
            self.fail(f"{len(i.index)} indices into {buffer.type}: {instruction_text(i)}")
        if i.opcode == "load" and i.dtype is not buffer.type.dtype:
            self.fail(f"loads {i.dtype.name} from {buffer.type}")
        if i.opcode == "store":
            if self.types[i.operands[0]] is not buffer.type.dtype or i.dtype is not buffer.type.dtype:
                self.fail(
                    f"stores {self.types[i.operands[0]].name} into {buffer.type}: {instruction_text(i)}"
                )
            if buffer.access == "in":
                self.fail(f"stores into an input: {instruction_text(i)}")
            if i.value not in (None, "add") or (
                i.value == "add" and (stage is None or stage.kind != "scatter")
            ):
                self.fail(f"adds outside a scatter stage: {instruction_text(i)}")
        if not i.guards:
            self.in_bounds(i, buffer.type.shape)

    def in_bounds(self, i: Instruction, shape: Sequence[Dim]) -> None:
        """An unguarded index whose bounds are known must lie in the buffer."""
        if any(a.hi is not None and a.hi < 0 for x in i.index for a in symbols(x)):
            return
        for x, size in zip(i.index, shape, strict=True):
            lo, hi = bounds(x)
            if lo is not None and hi is not None and isinstance(size, int) and (lo < 0 or hi >= size):
                self.fail(f"index {x} in [{lo}, {hi}] of a dimension of {size}: {instruction_text(i)}")

    def dim(self, x: Dim, i: Instruction) -> None:
        for s in symbols(x):
            if s.name.startswith("%"):
                self.use(int(s.name[1:]), i)
            elif s.name not in self.axes and s.name[0] != "$":
                self.fail(f"{s.name} is no axis in scope: {instruction_text(i)}")

    def define(self, number: int, dtype: DType) -> None:
        if number in self.numbers:
            self.fail(f"scalar %{number} is defined twice")
        self.numbers.add(number)
        self.visible.add(number)
        self.types[number] = dtype

    def use(self, number: int, i: Instruction | None = None) -> None:
        if number not in self.visible:
            at = f" in {instruction_text(i)}" if i is not None else ""
            self.fail(f"scalar %{number} is not visible{at}")

    # -- schedules --------------------------------------------------------------------

    def schedule(self) -> None:
        schedule = self.kernel.schedule
        assert schedule is not None
        if schedule.parts < 1:
            self.fail(f"{schedule.parts} partitions")
        if len(schedule.stages) != len(self.kernel.stages):
            self.fail(f"{len(schedule.stages)} stages of {len(self.kernel.stages)}")
        vector = self.loops(schedule.loops, self.kernel.axes, outer=True)
        for n, (loops, stage) in enumerate(zip(schedule.stages, self.kernel.stages, strict=True)):
            self.where = f"schedule of stage {n}"
            if self.loops(loops, stage.axes, outer=False) and vector:
                self.fail("a vector loop inside a vector loop")

    def loops(self, loops: Sequence[Loop], axes: Sequence[Symbol], *, outer: bool) -> bool:
        """Checks one list of loops; True where one is a vector loop."""
        names = {a.name for a in axes}
        if {x.axis for x in loops} != names:
            self.fail(f"loops over {sorted({x.axis for x in loops})}, axes are {sorted(names)}")
        roles = [x.role for x in loops]
        if "parallel" in roles and not outer:
            self.fail("a parallel loop inside a stage")
        if "parallel" in roles[roles.count("parallel") :]:
            self.fail("a parallel loop inside another kind of loop")
        if roles.count("vector") > 1:
            self.fail("two vector loops")
        return "vector" in roles
