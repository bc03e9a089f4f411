"""Ops with regions: the family of loops.

A loop's region is a graph that is run once per step. Its operands are, in order, the initial values
of what the loop carries, what it reads slice by slice, and constants. Passes and backends know a loop
by this layout alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from graphc.ir.dims import Dim
from graphc.ir.families import Attrs, GraphOp, Types
from graphc.ir.graph import Graph, Value
from graphc.ir.types import TensorType

__all__ = ["Loop"]


class Loop(GraphOp):
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

    operand_names = ("values",)
    variadic = True
    region_count = 1
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

    def is_history(self, carry: int) -> bool:
        """True where the result for a carried value is its history."""
        return carry in self.attrs["history"]

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
        given = [*types[:n], *(t.with_shape(t.shape[1:]) for t in types[n : n + m]), *types[n + m :]]
        taken = [v.type for v in body.inputs]
        if taken != given:
            raise RuntimeError(f"{cls.name}: its region takes {_list(taken)}, expected {_list(given)}")
        expected = [*types[:n], *attrs["outputs"]]
        returned = [v.type for v in body.outputs]
        if returned != expected:
            raise RuntimeError(
                f"{cls.name}: its region returns {_list(returned)}, expected {_list(expected)}"
            )


def _stacked(t: TensorType, length: Dim) -> TensorType:
    return t.with_shape((length, *t.shape))


def _list(types: Sequence[TensorType]) -> str:
    return ", ".join(map(str, types)) or "nothing"
