"""A place in the code where scalars of a kernel have values: bound axes, lanes, known scalars.

A scope has at most one vector axis. A scalar that does not depend on it is held as one scalar
value, others as vectors of `width` lanes. `active` lanes from the first are real, the rest
compute harmless values from masked loads and store nothing; `mask` restricts them further at
run time. Scopes nest by copying: what a child learns its parent does not see, so that a value
is never used where it does not dominate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from graphc.backends.llvm.kernel.lanes import LaneAxis, fits_32, merge_division, step_of
from graphc.backends.llvm.text import Builder, Val, element, lanes, vector
from graphc.ir.dims import Apply, Dim, Expr, Symbol, bounds, less_equal, substitute, symbols
from graphc.ir.errors import CompileError
from graphc.ir.kernel import Instruction, Kernel
from graphc.ir.records import dataclass
from graphc.ir.scalar import Guard
from graphc.ir.types import DType, float32, float64, int64, symbolic_strides

__all__ = ["BodySpace", "Condition", "Scope", "below_largest", "is_multiple", "scalar_dtypes"]


@dataclass(frozen=True)
class Condition:
    """Where guards hold: nowhere (not `possible`), in all lanes or none (`uniform`, an i1), only in the
    lanes that `lanes` has set, and where `varying` (an i1 for each lane) is set. None is "always"."""

    possible: bool = True
    uniform: Val | None = None
    lanes: tuple[bool, ...] | None = None
    varying: Val | None = None


def scalar_dtypes(kernel: Kernel) -> dict[int, DType]:
    """The dtype of every scalar number of a kernel, combine bodies and reduce results included."""
    types: dict[int, DType] = {}
    for stage in kernel.stages:
        bodies = [*stage.body]
        if stage.combine is not None:
            for side in (stage.combine.left, stage.combine.right):
                types.update(zip(side, (d for d, _ in stage.init), strict=True))
            bodies += stage.combine.body
        types.update((i.id, i.dtype) for i in bodies if i.id >= 0)
        types.update(zip(stage.results, (d for d, _ in stage.init), strict=True))
    return types


def below_largest(kernels: Sequence[Kernel]) -> dict[int, tuple[int, int]]:
    """Differences x - m in f32 and f64 where m is the largest of some numbers, as a rule of those that x is one of."""
    largest = {
        n
        for kernel in kernels
        for s in kernel.stages
        if s.combine is not None and s.combine.opcode == "max" and s.init[0][0] in (float32, float64)
        for n in s.results
    }
    return {
        i.id: (i.operands[0], i.operands[1])
        for kernel in kernels
        for i in kernel.instructions()
        if i.opcode == "sub" and i.operands[1] in largest and i.operands[0] not in largest
    }


class BodySpace:
    """What all scopes of one kernel's code share.

    `pointers` has an address for every buffer of the kernel, locals included; `error` is the
    address of the error word. Where the outer points run as lanes, each lane has its own copy of
    a local buffer: element e of lane l stands at e·`local_lanes` + l.
    """

    def __init__(
        self, builder: Builder, kernel: Kernel, pointers: Sequence[Val], error: Val, local_lanes: int = 1
    ) -> None:
        self.builder = builder
        self.kernel = kernel
        self.pointers = tuple(pointers)
        self.error = error
        self.local_lanes = local_lanes
        self.streamed: frozenset[int] = frozenset()
        """Buffers whose whole registers are stored past the caches."""
        self.sizes: dict[str, Val] = {}
        """Values of the kernel's symbolic sizes."""
        self.row_end: Val | None = None
        """Where inner axes end early, if they do: see `emit_rows`."""
        self.types = scalar_dtypes(kernel)
        self.below = below_largest([kernel])
        """Differences that are hardly ever positive: their operands, the smaller one first."""
        self.positions = {
            i.id: i.index[0]
            for i in kernel.instructions()
            if i.opcode == "index" and i.dtype is int64 and less_equal(0, i.index[0])
        }
        """64-bit scalars that are index expressions and not negative."""
        self._offsets: dict[tuple[int, tuple[Dim, ...]], Dim] = {}

    def scope(self) -> Scope:
        """A scope with nothing bound."""
        made = Scope(self)
        made._symbols = dict(self.sizes)
        return made

    def offset(self, buffer: int, index: tuple[Dim, ...]) -> Dim:
        """The row-major element offset of an index into a buffer."""
        key = (buffer, index)
        if key not in self._offsets:
            total: Dim = 0
            for i, stride in zip(
                index, symbolic_strides(self.kernel.buffers[buffer].type.shape), strict=True
            ):
                total = total + i * stride
            self._offsets[key] = merge_division(total)
        return self._offsets[key]


class Scope:
    """See the module's first lines. `values` maps scalar numbers to carried values."""

    def __init__(self, space: BodySpace) -> None:
        self.space = space
        self.builder = space.builder
        self.values: dict[int, Val] = {}
        self.lane: LaneAxis | None = None
        self.active = 1
        self.mask: Val | None = None
        self.yields: tuple[Val, ...] = ()
        self._symbols: dict[str, Val] = {}
        self._depths: dict[str, int] = {}
        self._fixed: dict[str, int] = {}
        self._simple: dict[Dim, Dim] = {}
        self._dims: dict[Dim, Val] = {}
        self._splats: dict[int, Val] = {}
        self._conditions: dict[tuple[Guard, ...], Condition] = {}

    # -- binding ----------------------------------------------------------------------

    def child(self) -> Scope:
        """A scope that starts with all that this one knows."""
        other = Scope(self.space)
        other.values = dict(self.values)
        other.lane, other.active, other.mask = self.lane, self.active, self.mask
        other._symbols = dict(self._symbols)
        other._depths = dict(self._depths)
        other._fixed, other._simple = self._fixed, self._simple
        other._dims = dict(self._dims)
        other._splats = dict(self._splats)
        other._conditions = dict(self._conditions)
        return other

    def assuming(self, guards: tuple[Guard, ...], holds: bool) -> Scope:
        """A child in whose code the uniform part of `guards` is known to hold, or not to."""
        other = self.child()
        other._conditions[guards] = replace(self.guard(guards), uniform=None) if holds else Condition(False)
        return other

    def bind(self, axes: Mapping[str, Val]) -> Scope:
        """A child with axes bound to i64 scalars."""
        other = self.child()
        other._conditions = {}
        depth = 1 + max(self._depths.values(), default=0)
        for name, value in axes.items():
            other._symbols[name] = value
            other._depths[name] = depth
        constants = {n: int(v.text) for n, v in axes.items() if not v.text.startswith("%")}
        if constants:
            other._fixed, other._simple = {**self._fixed, **constants}, {}
        return other

    def bind_vector(
        self,
        axis: str,
        base: Val,
        width: int,
        *,
        active: int | None = None,
        mask: Val | None = None,
        aligned: int | None = None,
    ) -> Scope:
        """A child with `axis` running over `base, base + 1, …` in `width` lanes.

        The first `active` lanes are real (all by default), fewer where `mask` (an i1 vector) is
        clear. `aligned` divides `base`; it is the width by default.
        """
        if self.width > 1:
            raise CompileError(
                f"vector loop over {axis} inside the one over {self.lane.name if self.lane else ''}"
            )
        other = self.bind({axis: base})
        if width > 1:
            start = other._fixed.get(axis)
            if start is not None:
                other._fixed = self._fixed
            other.active = width if active is None else active
            other.mask = mask
            real = other.active if mask is None else 1
            other.lane = LaneAxis(axis, width, width if aligned is None else aligned, start, real)
        return other

    def with_lanes(self, width: int) -> Scope:
        """A child for arithmetic alone, on values of `width` lanes."""
        other = self.child()
        if width != self.width:
            other.lane = LaneAxis("", width) if width > 1 else None
            other.active, other.mask = width, None
            other._splats, other._conditions = {}, {}
        return other

    @property
    def width(self) -> int:
        """Lanes of the vector axis; 1 without one."""
        return self.lane.width if self.lane is not None else 1

    def position(self, axis: str) -> Val:
        """Where an axis is, i64: its first lane."""
        return self._symbols[axis]

    def set(self, number: int, value: Val) -> None:
        """Gives scalar `number` a value, a scalar or one value per lane."""
        self.values[number] = value
        self._splats.pop(number, None)

    def set_symbol(self, name: str, value: Val) -> None:
        """Gives a `to_index` symbol its i64 value (or one per lane)."""
        self._symbols[name] = value
        self._depths[name] = max(self._depths.values(), default=0)
        if self.lane is not None and lanes(value.type) > 1:
            self.lane = replace(self.lane, varying=self.lane.varying | {name}, _offsets={}, _forms={})

    def value(self, number: int) -> Val:
        """Scalar `number`: one scalar where it is the same in all lanes, else a vector."""
        return self.values[number]

    def lanes(self, number: int) -> Val:
        """Scalar `number` with one value per lane."""
        value = self.values[number]
        if lanes(value.type) == self.width:
            return value
        if number not in self._splats:
            self._splats[number] = self.builder.splat(value, self.width)
        return self._splats[number]

    def operands(self, instruction: Instruction) -> list[Val]:
        """An instruction's operands, all scalars or all with one value per lane."""
        values = [self.values[o] for o in instruction.operands]
        if all(lanes(v.type) == 1 for v in values):
            return values
        return [self.lanes(o) for o in instruction.operands]

    def lane_mask(self) -> Val | None:
        """The real lanes as an i1 vector; None where all are."""
        if self.active == self.width:
            return self.mask
        bits = ["true" if i < self.active else "false" for i in range(self.width)]
        constant = self.builder.vector_literal("i1", bits)
        return constant if self.mask is None else self.builder.and_(constant, self.mask)

    # -- index expressions ------------------------------------------------------------

    def simple(self, x: Dim) -> Dim:
        """The expression with the axes that stand at a constant replaced."""
        if not self._fixed or isinstance(x, int):
            return x
        if x not in self._simple:
            values: dict[Symbol, Dim] = {s: self._fixed[s.name] for s in symbols(x) if s.name in self._fixed}
            self._simple[x] = merge_division(substitute(x, values)) if values else x
        return self._simple[x]

    def offsets(self, x: Dim) -> tuple[int, ...] | None:
        """By how much each lane of an expression exceeds lane 0; None where that is not constant."""
        return (0,) if self.lane is None else self.lane.offsets(self.simple(x))

    def step(self, x: Dim) -> int | None:
        """Growth of an expression from lane to lane; None where it is not constant."""
        return step_of(self.simple(x), self.lane)

    def dim(self, x: Dim) -> Val:
        """An expression's value in lane 0, as i64. Terms of outer axes are added first, so that they
        can leave the inner loops."""
        x = self.simple(x)
        if isinstance(x, int):
            return Val("i64", str(x))
        known = self._dims.get(x)
        if known is not None:
            return known
        terms = sorted(x.terms, key=lambda t: self._depth(t[0]))
        total: Val | None = None
        for monomial, k in terms:
            term = self._monomial(monomial, k)
            total = term if total is None else self.builder.add(total, term)
        assert total is not None
        self._dims[x] = total
        return total

    def _depth(self, monomial: tuple[tuple[Symbol | Apply, int], ...]) -> int:
        names = [
            s.name for a, _ in monomial for s in ([a] if isinstance(a, Symbol) else symbols(_expression(a)))
        ]
        return max((self._depths.get(n, 0) for n in names), default=0)

    def _monomial(self, monomial: tuple[tuple[Symbol | Apply, int], ...], k: int) -> Val:
        total: Val | None = None
        for atom, power in monomial:
            factor = self._atom(atom)
            for _ in range(power):
                total = factor if total is None else self.builder.mul(total, factor)
        if total is None:
            return Val("i64", str(k))
        return total if k == 1 else self.builder.mul(total, Val("i64", str(k)))

    def _atom(self, atom: Symbol | Apply) -> Val:
        if isinstance(atom, Symbol):
            return self._symbols[atom.name]
        whole = _expression(atom)
        if whole not in self._dims:
            a, c = (self.dim(x) for x in atom.args)
            self._dims[whole] = self._function(atom, a, c)
        return self._dims[whole]

    def _function(self, atom: Apply, a: Val, c: Val) -> Val:
        """`//`, `%`, `min` or `max` of integers of one type."""
        b = self.builder
        if atom.function in ("min", "max"):
            return b.select(b.icmp("slt" if atom.function == "min" else "sgt", a, c), a, c)
        low, high = bounds(atom.args[0])[0], bounds(atom.args[1])[0]
        if low is not None and low >= 0 and high is not None and high > 0:
            return b.binary("udiv" if atom.function == "//" else "urem", a, c)
        rest = b.binary("srem", a, c)
        zero = b.const(a.type, 0)
        opposite = b.icmp("slt", b.xor(rest, c), zero)
        crosses = b.and_(b.icmp("ne", rest, zero), opposite)
        if atom.function == "%":
            return b.add(rest, b.select(crosses, c, zero))
        return b.sub(b.binary("sdiv", a, c), b.cast("zext", crosses, a.type))

    def lane_dims(self, x: Dim) -> Val:
        """An expression's value in every lane: i32 where it surely fits, else i64."""
        assert self.lane is not None
        return self._lane_dims(x, "i32" if fits_32(x) else "i64")

    def _lane_dims(self, x: Dim, scalar: str) -> Val:
        x = self.simple(x)
        b, offsets = self.builder, self.offsets(x)
        if offsets is not None:
            start = b.splat(self._narrow(self.dim(x), scalar), self.width)
            return b.add(start, b.vector_literal(scalar, list(map(str, offsets)))) if any(offsets) else start
        assert isinstance(x, Expr)
        affine: Dim = 0
        total: Val | None = None
        for monomial, k in x.terms:
            single = Expr(((monomial, k),)) if monomial else k
            if self.offsets(single) is not None:
                affine = affine + single
                continue
            term: Val | None = None
            for atom, power in monomial:
                factor = self._lane_atom(atom, scalar)
                for _ in range(power):
                    term = factor if term is None else b.mul(term, factor)
            assert term is not None
            term = term if k == 1 else b.mul(term, b.const(term.type, k))
            total = term if total is None else b.add(total, term)
        assert total is not None
        return total if affine == 0 else b.add(total, self._lane_dims(affine, scalar))

    def _lane_atom(self, atom: Symbol | Apply, scalar: str) -> Val:
        if isinstance(atom, Symbol):
            value = self._symbols[atom.name]
            if lanes(value.type) == 1:
                return self._lane_dims(atom.expr, scalar)
            return self._narrow(value, scalar)
        if self.offsets(_expression(atom)) is not None:
            return self._lane_dims(_expression(atom), scalar)
        return self._function(atom, *(self._lane_dims(x, scalar) for x in atom.args))

    def _narrow(self, value: Val, scalar: str) -> Val:
        if element(value.type) == scalar:
            return value
        if not value.text.startswith("%"):
            return Val(scalar, value.text)
        return self.builder.cast("trunc", value, vector(scalar, lanes(value.type)))

    # -- guards -----------------------------------------------------------------------

    def guard(self, guards: Sequence[Guard]) -> Condition:
        """Where all guards hold."""
        key = tuple(guards)
        if key not in self._conditions:
            self._conditions[key] = self._condition(key)
        return self._conditions[key]

    def _condition(self, guards: tuple[Guard, ...]) -> Condition:
        b = self.builder
        uniform: Val | None = None
        doubtful: list[tuple[Dim, Dim, tuple[bool | None, ...]]] = []
        alive = [True] * self.width
        for expression, lower, upper in guards:
            distance, size = self.simple(expression - lower), self.simple(upper - lower)
            known = _within(distance, size)
            if known is not None:
                if not known:
                    return Condition(False)
            elif (self._agree(distance) or self._begins_at_vectors(distance, size)) and self._agree(size):
                holds = self._inside(self.dim(distance), self.dim(size), less_equal(0, size))
                uniform = holds if uniform is None else b.and_(uniform, holds)
            else:
                decided = self._decided(distance, size)
                alive = [a and d is not False for a, d in zip(alive, decided, strict=True)]
                doubtful.append((distance, size, decided))
        varying: Val | None = None
        for distance, size, decided in doubtful:
            if any(a and d is None for a, d in zip(alive, decided, strict=True)):
                holds = self._lanes_inside(distance, size)
                varying = holds if varying is None else b.and_(varying, holds)
        return Condition(any(alive[: self.active]), uniform, None if all(alive) else tuple(alive), varying)

    def _agree(self, x: Dim) -> bool:
        """True where all lanes of an expression are the same."""
        offsets = self.offsets(x)
        return offsets is not None and not any(offsets)

    def _begins_at_vectors(self, distance: Dim, size: Dim) -> bool:
        """True where the places with 0 <= distance < size begin and end between vectors."""
        if self.lane is None or self.lane.base is not None or self.step(distance) != 1:
            return False
        forms = self.lane.forms(distance)
        return forms is not None and is_multiple(forms[0], self.width) and is_multiple(size, self.width)

    def _decided(self, distance: Dim, size: Dim) -> tuple[bool | None, ...]:
        """For each lane whether 0 <= distance < size, None where that is not known."""
        assert self.lane is not None
        unknown = (None,) * self.width
        if self.lane.base is None and self.step(distance) is not None:
            return unknown  # evenly spread lanes from anywhere: some base is always in doubt
        distances, sizes = self.lane.forms(distance), self.lane.forms(size)
        if distances is None or sizes is None:
            return unknown
        return tuple(_within(d, s) for d, s in zip(distances, sizes, strict=True))

    def _lanes_inside(self, distance: Dim, size: Dim) -> Val:
        scalar = "i32" if fits_32(distance) and fits_32(size) else "i64"
        return self._inside(
            self._lane_dims(distance, scalar), self._lane_dims(size, scalar), less_equal(0, size)
        )

    def _inside(self, distance: Val, size: Val, proper: bool | None) -> Val:
        inside = self.builder.icmp("ult", distance, size)
        if proper:
            return inside
        return self.builder.and_(inside, self.builder.icmp("sge", size, self.builder.const(size.type, 0)))


def _expression(atom: Apply) -> Expr:
    return Expr(((((atom, 1),), 1),))


def is_multiple(x: Dim, n: int) -> bool:
    """True where every term of an expression is a multiple of `n`."""
    return x % n == 0 if isinstance(x, int) else all(k % n == 0 for _, k in x.terms)


def _within(distance: Dim, size: Dim) -> bool | None:
    """0 <= distance < size, where the bounds decide it."""
    if less_equal(0, distance) and less_equal(distance + 1, size):
        return True
    if less_equal(distance + 1, 0) or less_equal(size, distance):
        return False
    return None
