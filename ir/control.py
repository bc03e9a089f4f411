"""Ops with regions: loops of known length, loops with a predicate, branches.

A region is a graph that is run none, one or many times, as its op's family says. Passes and backends know
such an op by its family's layout of operands and results alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from graphc.ir.dims import Dim
from graphc.ir.families import Attrs, GraphOp, Types
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType, bool_

__all__ = ["Branch", "Control", "Loop", "While"]

FLAG = TensorType(bool_, ())
"""What a predicate is."""


class Control(GraphOp):
    """Base of the ops whose regions the driver of a program runs. What a region reads, its op passes to it."""

    operand_names = ("values",)
    variadic = True
    region_names: ClassVar[tuple[str, ...]] = ()
    """What each region is, in a word or two."""

    def arrivals(self, operand: int) -> list[Value]:
        """Inputs of regions that are operand number `operand` whenever they are run; none where it may be otherwise."""
        raise NotImplementedError(f"{self.name}.arrivals")

    @classmethod
    def check_region(
        cls, what: str, region: Graph, taken: Sequence[TensorType], returned: Sequence[TensorType]
    ) -> None:
        """Raises RuntimeError where a region does not take and return values of these types."""
        for verb, expected, values in (
            ("takes", taken, region.inputs),
            ("returns", returned, region.outputs),
        ):
            found = [v.type for v in values]
            if found != list(expected):
                raise RuntimeError(f"{cls.name}: {what} {verb} {_list(found)}, expected {_list(expected)}")


class Loop(Control):
    """Runs its region `length` times; what the region returns for a carried value is that value in the next step.

    Operands: `carries` initial values, then `slices` values with a leading axis of size `length`, then
    constants. The region takes the carried values, one slice of each, and the constants; it returns
    the carried values after the step, of the types they had before it, then one value for each of the
    types in `outputs`.

    Results: for each carried value what it is after the last step, or, where its number is in `history`,
    all that it ever was, [length + 1, …], its initial value included; then each output stacked,
    [length, …]. With `reverse` the steps go from the last slice to the first: outputs stand where their
    slices stand, and a history starts at its end.
    """

    region_count = 1
    region_names = ("step",)
    attributes: ClassVar[dict[str, Any]] = {
        "length": ...,
        "carries": ...,
        "slices": ...,
        "outputs": ...,
        "history": (),
        "reverse": False,
    }

    # -- layout ---------------------------------------------------------------------------

    @property
    def body(self) -> Graph:
        """The region."""
        return self.regions[0]

    @property
    def carries(self) -> int:
        """How many values are carried."""
        count: int = self.attrs["carries"]
        return count

    @property
    def initial(self) -> tuple[Value, ...]:
        """Operands that are the carried values before the first step."""
        return self.operands[: self.carries]

    @property
    def sliced(self) -> tuple[Value, ...]:
        """Operands that are read slice by slice."""
        return self.operands[self.carries : self.carries + self.attrs["slices"]]

    @property
    def constants(self) -> tuple[Value, ...]:
        """Operands that are the same in every step."""
        return self.operands[self.carries + self.attrs["slices"] :]

    def arrivals(self, operand: int) -> list[Value]:
        """The input of the region, for a constant."""
        return [self.body.inputs[operand]] if operand >= self.carries + self.attrs["slices"] else []

    def is_history(self, carry: int) -> bool:
        """True where the result for a carried value is its history."""
        return carry in self.attrs["history"]

    def batch(self, b: Any, operands: Sequence[Value], batched: Sequence[bool]) -> Sequence[Value]:
        """One loop for all instances: everything that is carried has them."""
        n, m = self.carries, self.attrs["slices"]
        given = []
        for i, (v, on) in enumerate(zip(operands, batched, strict=True)):
            if i < n:
                given.append(b.whole(v, on))
            else:
                given.append(_swapped(b, v) if on and i < n + m else v)
        outputs = tuple(t.with_shape((b.instances, *t.shape)) for t in self.attrs["outputs"])
        region = b.region(self.body, [True] * n + list(batched[n:]))
        attrs = {**self.attrs, "outputs": outputs}
        found = b.create(type(self), given, [region], **attrs).results
        return [v if i < n and not self.is_history(i) else _swapped(b, v) for i, v in enumerate(found)]

    # -- inference ------------------------------------------------------------------------

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        n, m, length = attrs["carries"], attrs["slices"], attrs["length"]
        if len(types) < n + m:
            raise RuntimeError(
                f"{cls.name}: {n} carried and {m} sliced values expected, got {len(types)} operands"
            )
        for t in types[n : n + m]:
            if t.rank == 0 or t.shape[0] != length:
                raise RuntimeError(
                    f"{cls.name}: expected a leading axis of size {length} for everything that is read slice by "
                    f"slice, got {t}"
                )
        kept = attrs["history"]
        carried = [_stacked(t, length + 1) if i in kept else t for i, t in enumerate(types[:n])]
        return (*carried, *(_stacked(t, length) for t in attrs["outputs"]))

    @classmethod
    def check_regions(cls, types: Types, attrs: Attrs, regions: Sequence[Graph]) -> None:
        """Raises RuntimeError where the region does not take and return what this op passes and expects."""
        n, m = attrs["carries"], attrs["slices"]
        (body,) = regions
        taken = [*types[:n], *(t.with_shape(t.shape[1:]) for t in types[n : n + m]), *types[n + m :]]
        cls.check_region("its region", body, taken, [*types[:n], *attrs["outputs"]])


class Branch(Control):
    """Runs one of its two regions: the first where its first operand, a bool of rank 0, is true.

    Both regions take the other operands and return values of the types in `outputs`, which are the results.
    """

    region_count = 2
    region_names = ("if true", "if false")
    attributes: ClassVar[dict[str, Any]] = {"outputs": ...}

    @property
    def predicate(self) -> Value:
        """The operand that chooses."""
        return self.operands[0]

    @property
    def given(self) -> tuple[Value, ...]:
        """Operands that the regions take."""
        return self.operands[1:]

    def arrivals(self, operand: int) -> list[Value]:
        """The inputs of both regions, for all but the predicate."""
        return [r.inputs[operand - 1] for r in self.regions] if operand else []

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if not types or types[0] != FLAG:
            raise RuntimeError(f"{cls.name}: expected a predicate of type {FLAG}, got {_list(types[:1])}")
        return tuple(attrs["outputs"])

    def batch(self, b: Any, operands: Sequence[Value], batched: Sequence[bool]) -> Sequence[Value]:
        """One branch for all instances where they share the predicate."""
        if batched[0]:
            return b.each(self, operands, batched)  # type: ignore[no-any-return]
        outputs = tuple(t.with_shape((b.instances, *t.shape)) for t in self.attrs["outputs"])
        regions = [b.region(r, batched[1:]) for r in self.regions]
        return b.create(type(self), operands, regions, outputs=outputs).results  # type: ignore[no-any-return]

    @classmethod
    def check_regions(cls, types: Types, attrs: Attrs, regions: Sequence[Graph]) -> None:
        """Raises RuntimeError where a region does not take what this op passes or return what it gives."""
        for what, region in zip(("its first region", "its second region"), regions, strict=True):
            cls.check_region(what, region, types[1:], attrs["outputs"])


class While(Control):
    """Runs its second region as long as the first says so: both take the carried values, then constants.

    The first region returns a bool of rank 0, the second the carried values after a step. Operands:
    `carries` initial values, then constants. Results: the carried values after the last step. There are at
    most `limit` steps; None is no limit.
    """

    region_count = 2
    region_names = ("while", "step")
    attributes: ClassVar[dict[str, Any]] = {"carries": ..., "limit": None}

    @property
    def test(self) -> Graph:
        """The region that says whether there is another step."""
        return self.regions[0]

    @property
    def body(self) -> Graph:
        """The region that is a step."""
        return self.regions[1]

    @property
    def carries(self) -> int:
        """How many values are carried."""
        count: int = self.attrs["carries"]
        return count

    @property
    def constants(self) -> tuple[Value, ...]:
        """Operands that are the same in every step."""
        return self.operands[self.carries :]

    def arrivals(self, operand: int) -> list[Value]:
        """The inputs of both regions, for a constant."""
        return [r.inputs[operand] for r in self.regions] if operand >= self.carries else []

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        n, limit = attrs["carries"], attrs["limit"]
        if len(types) < n:
            raise RuntimeError(f"{cls.name}: {n} carried values expected, got {len(types)} operands")
        if limit is not None and limit < 1:
            raise RuntimeError(f"{cls.name}: expected a limit of at least 1, got {limit}")
        return tuple(types[:n])

    @classmethod
    def check_regions(cls, types: Types, attrs: Attrs, regions: Sequence[Graph]) -> None:
        """Raises RuntimeError where a region does not take and return what this op passes and expects."""
        cls.check_region("its first region", regions[0], types, [FLAG])
        cls.check_region("its second region", regions[1], types, types[: attrs["carries"]])


def _swapped(b: Any, x: Value) -> Value:
    """The value with its first two axes exchanged."""
    return b.permute(x, axes=(1, 0, *range(2, x.type.rank)))  # type: ignore[no-any-return]


def _stacked(t: TensorType, length: Dim) -> TensorType:
    return t.with_shape((length, *t.shape))


def _list(types: Sequence[TensorType]) -> str:
    return ", ".join(map(str, types)) or "nothing"
