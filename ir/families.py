"""Op families: what passes and backends may know about an op.

An op is one class deriving from one family. A family says which hooks the class gives; passes
and backends dispatch on family and traits only. Registration is by definition: a class with a
`name` is in `REGISTRY`. Longer than most files: families derive from one another.

* `Pointwise` (Elementwise, View, Index reads, Random, Iota): `point` gives the scalar at one
  result index in terms of the operands' scalars at indices of its choice.
* `Accumulate` (Reduce, Contraction, Window): `domain` gives reduction axes and operand accesses,
  `element`/`combine`/`init`/`finish` give the scalar work.
* `Scatter`: many source points write one result element.
* `Composite`: gives a decomposition into other ops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import field
from typing import Any, ClassVar, Literal, TypeVar

from graphc.ir.dims import Dim, Symbol
from graphc.ir.graph import Graph, Op, Value
from graphc.ir.kernel import new_axis
from graphc.ir.records import dataclass
from graphc.ir.scalar import Guard, ScalarBuilder
from graphc.ir.types import DTYPES, DType, TensorType

__all__ = [
    "ALL_DTYPES",
    "FLOATS",
    "INTEGERS",
    "NUMERIC",
    "REGISTRY",
    "Access",
    "Accumulate",
    "Composite",
    "Contraction",
    "Creation",
    "Elementwise",
    "Gather",
    "GraphOp",
    "Leading",
    "Pointwise",
    "Random",
    "Reduce",
    "Sample",
    "Scatter",
    "Trait",
    "View",
    "Window",
]

S = TypeVar("S")
Attrs = Mapping[str, Any]
Types = Sequence[TensorType]
Index = tuple[Dim, ...]
Read = Callable[[Index], S]

FLOATS = ("f16", "bf16", "f32", "f64")
INTEGERS = ("u8", "i8", "i16", "i32", "i64")
NUMERIC = FLOATS + INTEGERS
ALL_DTYPES = (*NUMERIC, "bool")

Trait = Literal[
    "commutative",  # operands may be swapped
    "involution",  # f(f(x)) = x
    "idempotent",  # f(f(x)) = f(x)
    "linear",  # of sums of all operands it is the sum of its results
    "cheap",  # recomputing costs less than loading
    "view",  # moves no data: an index map of one operand
    "random",  # depends on (seed, offset, index) only; recomputed exactly
    "own_derivative",  # the derivative is not that of its parts: not decomposed before all derivatives are taken
    "structural",  # expanded by a pass before any backend sees it; has no reference of its own
]


Leading = Literal[
    "axis",  # an axis, or a tuple of them: each is one more
    "order",  # all axes in some order: the new one stays first
    "zero",  # one entry an axis: 0 for the new one
    "one",  # one entry an axis: 1 for the new one
    "size",  # one entry an axis: the number of instances for the new one
]


def _moved(kind: Leading | None, value: Any, instances: int) -> Any:
    """An attribute with one more leading axis."""
    match kind:
        case None:
            return value
        case "axis":
            return tuple([a + 1 for a in value]) if isinstance(value, tuple) else value + 1
        case "order":
            return (0, *(a + 1 for a in value))
    return ({"zero": 0, "one": 1, "size": instances}[kind], *value)


@dataclass(frozen=True)
class Sample:
    """One set of inputs for tests: operand types (with how to draw them) and attributes.

    `draw` names each operand's distribution: "normal", "positive", "unit" (in [-1, 1]), "index:N"
    (integers in [0, N)), "bool", "nonzero", "any" (larger numbers, exact integers and both zeros
    among them), "special" ("any" with infinities and NaN among floats); missing entries are "normal".
    """

    operands: tuple[TensorType, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    draw: tuple[str, ...] = ()
    make: Callable[[Any], Sequence[Any]] | None = None
    """Draws all operands with a NumPy generator, where they depend on one another; else None."""
    regions: tuple[Graph, ...] = ()


@dataclass(frozen=True)
class Access:
    """How an accumulating op reads one operand at one point: index, guards, and the value outside."""

    index: Index
    guards: tuple[Guard, ...] = ()
    fill: float | int | bool = 0


REGISTRY: dict[str, type[GraphOp]] = {}


Requirement = tuple[Dim, Literal[">=", "==", "!="]]
"""A difference of sizes, and how it is to stand to 0."""


class GraphOp(Op):
    """Base of every op class. Class attributes and hooks are the whole definition of an op."""

    operand_names: ClassVar[tuple[str, ...]] = ()
    variadic: ClassVar[bool] = False
    """True where the last operand name stands for any number of operands."""
    attributes: ClassVar[dict[str, Any]] = {}
    """Attribute name -> default; `...` means required."""
    dtypes: ClassVar[tuple[str, ...]] = ALL_DTYPES
    """Dtypes of the first operand (of the result for creation ops) that must work everywhere."""
    traits: ClassVar[frozenset[Trait]] = frozenset()
    ulp: ClassVar[Mapping[str, float]] = {}
    """Stated bound against the reference by dtype name, in units in the last place; absent is 0."""
    no_derivative: ClassVar[str] = ""
    """Why no gradient can pass (comparisons, indices), or empty where one can."""
    zero_derivative: ClassVar[str] = ""
    """Why the gradients that pass are all zero (rounding), or empty. Takes the place of a `vjp`."""
    differentiable: ClassVar[bool] = True
    """True where `no_derivative` is empty."""
    no_gradient: ClassVar[Mapping[str, str]] = {}
    """Operands that get no cotangent by definition, though the result depends on them, and why."""
    region_count: ClassVar[int] = 0
    leading: ClassVar[Mapping[str, Leading] | None] = None
    """How attributes change where every operand gets one more leading axis, which the op then works along;
    others stay. None where the op cannot simply be given one."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.differentiable = not cls.no_derivative
        if "name" in cls.__dict__ and cls.name:
            assert cls.name not in REGISTRY or REGISTRY[cls.name].__qualname__ == cls.__qualname__, cls.name
            REGISTRY[cls.name] = cls

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        """Result types. Raises what PyTorch would raise, saying what was expected and what came."""
        raise NotImplementedError(f"{cls.name}.infer")

    @classmethod
    def requirements(cls, types: Types, attrs: Attrs) -> Iterator[Requirement]:
        """What is to hold of symbolic sizes for which `infer` does not raise: all that it cannot decide without them."""
        return iter(())

    @classmethod
    def check_regions(cls, types: Types, attrs: Attrs, regions: Sequence[Graph]) -> None:
        """Raises RuntimeError where regions do not fit the operands and attributes."""

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        """One cotangent per operand (None is a symbolic zero), built with builder `b`.

        `cotangents` has one entry per result. Only called where `differentiable`.
        """
        if self.zero_derivative:
            return [None] * len(self.operands)
        raise NotImplementedError(f"{self.name}.vjp")

    def batch(self, b: Any, operands: Sequence[Value], batched: Sequence[bool]) -> Sequence[Value]:
        """The results for many instances, stacked along a leading axis, which `batched` operands have; at
        least one is. Built with a `graphc.ir.batching.Batcher`."""
        if self.leading is None:
            return b.each(self, operands, batched)  # type: ignore[no-any-return]
        attrs = {k: _moved(self.leading.get(k), v, b.instances) for k, v in self.attrs.items()}
        values = [b.whole(v, on) for v, on in zip(operands, batched, strict=True)]
        return b.create(type(self), values, **attrs).results  # type: ignore[no-any-return]

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        """The result (or tuple of results) in NumPy, independent of the compiled path.

        Where the op has regions, `attrs["regions"]` has each as a function of arrays.
        """
        raise NotImplementedError(f"{cls.name}.reference")

    @classmethod
    def magnitude(cls, attrs: Attrs, *arrays: Any) -> Any:
        """What `ulp` counts units of, where that is not the result itself: an array of the result's
        shape (a tuple where there are several results), for example Σ|x| for a sum, whose terms may
        cancel. None is the result."""
        return None

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        """Inputs for the conformance test: typical, broadcast-like, empty and one-element shapes."""
        raise NotImplementedError(f"{cls.name}.samples")

    def simplify(self, b: Any) -> Value | Sequence[Value] | None:
        """A simpler equal value built with `b` just before this op, or None. Bits must not change."""
        return None


class Pointwise(GraphOp):
    """Every result element is computed on its own from chosen operand elements."""

    @classmethod
    def point(
        cls,
        s: ScalarBuilder[S],
        attrs: Attrs,
        types: Types,
        result: TensorType,
        index: Index,
        reads: Sequence[Read[S]],
    ) -> S:
        """The result's scalar at `index`; `reads[i](j)` is operand i's scalar at index j."""
        raise NotImplementedError(f"{cls.name}.point")


class Elementwise(Pointwise):
    """All operands and results have one shape; `body` is the scalar function."""

    leading: ClassVar[Mapping[str, Leading] | None] = {}

    @classmethod
    def body(cls, s: ScalarBuilder[S], attrs: Attrs, *x: S) -> S:
        raise NotImplementedError(f"{cls.name}.body")

    @classmethod
    def point(
        cls,
        s: ScalarBuilder[S],
        attrs: Attrs,
        types: Types,
        result: TensorType,
        index: Index,
        reads: Sequence[Read[S]],
    ) -> S:
        return cls.body(s, attrs, *[read(index) for read in reads])

    @classmethod
    def result_dtype(cls, types: Types, attrs: Attrs) -> DType:
        """Dtype of the result; the operands' common dtype unless overridden."""
        return types[0].dtype

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        first = types[0]
        for t in types[1:]:
            if t.shape != first.shape:
                raise RuntimeError(f"{cls.name}: operands must have one shape, got {_list(types)}")
        cls.check_dtypes(types)
        return (TensorType(cls.result_dtype(types, attrs), first.shape),)

    @classmethod
    def check_dtypes(cls, types: Types) -> None:
        """Raises where operand dtypes differ or the op does not take them."""
        if any(t.dtype is not types[0].dtype for t in types):
            raise RuntimeError(f"{cls.name}: operands must have one dtype, got {_list(types)}")
        if types[0].dtype.name not in cls.dtypes:
            raise NotImplementedError(f'"{cls.name}" not implemented for {types[0].dtype}')


class View(Pointwise):
    """Moves elements without computing: pieces of operands laid out by index maps.

    `pieces` is tried in order; the first whose guards hold gives the element; else `fill`.
    """

    @classmethod
    def pieces(
        cls, attrs: Attrs, types: Types, result: TensorType, index: Index
    ) -> Sequence[tuple[int, Index, tuple[Guard, ...]]]:
        """(operand number, operand index, guards) in order of precedence."""
        raise NotImplementedError(f"{cls.name}.pieces")

    @classmethod
    def fill(cls, attrs: Attrs) -> float | int | bool:
        """The value where no piece applies."""
        return 0

    @classmethod
    def write_through(cls, b: Any, attrs: Attrs, base: Any, update: Any) -> Any:
        """`base` with the elements that this view shows replaced by `update`, built with `b`.

        Given by views that share memory in the API. Raises RuntimeError where elements coincide.
        """
        raise NotImplementedError(f"{cls.name}.write_through")

    @classmethod
    def point(
        cls,
        s: ScalarBuilder[S],
        attrs: Attrs,
        types: Types,
        result: TensorType,
        index: Index,
        reads: Sequence[Read[S]],
    ) -> S:
        pieces = list(cls.pieces(attrs, types, result, index))
        operand, at, guards = pieces[-1]
        value = (
            s.guarded(guards, lambda: reads[operand](at), s.const(result.dtype, cls.fill(attrs)))
            if guards
            else reads[operand](at)
        )
        for operand, at, guards in reversed(pieces[:-1]):
            value = s.guarded(guards, _bind(reads[operand], at), value)
        return value


def _bind(read: Read[S], at: Index) -> Callable[[], S]:
    return lambda: read(at)


class Gather(Pointwise):
    """Reads an operand at positions that another operand holds."""


class Creation(Pointwise):
    """Has no operands: constants and iota."""


class Random(Pointwise):
    """Element i depends on (seed, offset, row-major i) only."""


class Accumulate(GraphOp):
    """Each result element combines many operand elements over reduction axes.

    The accumulator is a tuple of scalars: `init`, then `combine` with `element` of each point in
    row-major order of the reduction axes (a backend may reassociate in a fixed way given by shape
    and target), then `finish`. So `combine` must be associative and commutative up to rounding and
    `init` its identity; an accumulator that depends on order carries a position and breaks ties by it.
    """

    @classmethod
    def domain(cls, attrs: Attrs, types: Types, result: TensorType) -> tuple[Dim, ...]:
        """Extents of the reduction axes."""
        raise NotImplementedError(f"{cls.name}.domain")

    @classmethod
    def accesses(
        cls, attrs: Attrs, types: Types, result: TensorType, index: Index, reduced: Index
    ) -> Sequence[Access]:
        """How each operand is read at result `index` and reduction point `reduced`."""
        raise NotImplementedError(f"{cls.name}.accesses")

    @classmethod
    def init(cls, attrs: Attrs, types: Types) -> Sequence[tuple[DType, float | int | bool]]:
        """Accumulator dtypes and initial values."""
        raise NotImplementedError(f"{cls.name}.init")

    @classmethod
    def element(
        cls, s: ScalarBuilder[S], attrs: Attrs, types: Types, index: Index, reduced: Index, x: Sequence[S]
    ) -> Sequence[S]:
        """What one point contributes, in the accumulators' dtypes."""
        raise NotImplementedError(f"{cls.name}.element")

    @classmethod
    def combine(cls, s: ScalarBuilder[S], attrs: Attrs, a: Sequence[S], b: Sequence[S]) -> Sequence[S]:
        """Associative combination of two accumulators; `a` comes earlier in order."""
        raise NotImplementedError(f"{cls.name}.combine")

    @classmethod
    def finish(
        cls, s: ScalarBuilder[S], attrs: Attrs, types: Types, results: Types, acc: Sequence[S]
    ) -> Sequence[S]:
        """Result scalars (one per result) from the accumulator."""
        return [s.cast(a, r.dtype) for a, r in zip(acc, results, strict=True)]


class Reduce(Accumulate):
    """Reduction of one operand over `axes` (non-negative, sorted), dropping them.

    Keeping dims is a reshape after it.
    """

    operand_names = ("x",)
    attributes: ClassVar[dict[str, Any]] = {"axes": ...}
    leading: ClassVar[Mapping[str, Leading] | None] = {"axes": "axis"}

    @classmethod
    def result_shape(cls, types: Types, attrs: Attrs) -> tuple[Dim, ...]:
        axes = set(attrs["axes"])
        bad = [a for a in axes if not 0 <= a < types[0].rank]
        if bad:
            raise IndexError(
                f"{cls.name}: dimension out of range (expected to be in [0, {types[0].rank - 1}], got {bad[0]})"
            )
        return tuple(d for i, d in enumerate(types[0].shape) if i not in axes)

    @classmethod
    def domain(cls, attrs: Attrs, types: Types, result: TensorType) -> tuple[Dim, ...]:
        return tuple(types[0].shape[a] for a in attrs["axes"])

    @classmethod
    def accesses(
        cls, attrs: Attrs, types: Types, result: TensorType, index: Index, reduced: Index
    ) -> Sequence[Access]:
        where = dict(zip(attrs["axes"], reduced, strict=True))
        rest = iter(index)
        return [Access(tuple(where[i] if i in where else next(rest) for i in range(types[0].rank)))]


class Contraction(Accumulate):
    """Sum of products of exactly two operands: matrix products and convolutions.

    `ulp` counts units of the sum of the products' absolute values, since products may cancel.
    """

    operand_names = ("lhs", "rhs")
    dtypes: ClassVar[tuple[str, ...]] = NUMERIC

    @classmethod
    def init(cls, attrs: Attrs, types: Types) -> Sequence[tuple[DType, float | int | bool]]:
        return [(types[0].dtype.accumulator, 0)]

    @classmethod
    def element(
        cls, s: ScalarBuilder[S], attrs: Attrs, types: Types, index: Index, reduced: Index, x: Sequence[S]
    ) -> Sequence[S]:
        to = types[0].dtype.accumulator
        return [s.apply("mul", s.cast(x[0], to), s.cast(x[1], to))]

    @classmethod
    def combine(cls, s: ScalarBuilder[S], attrs: Attrs, a: Sequence[S], b: Sequence[S]) -> Sequence[S]:
        return [s.apply("add", a[0], b[0])]

    @classmethod
    def magnitude(cls, attrs: Attrs, *arrays: Any) -> Any:
        return cls.reference(attrs, *(abs(a.astype(float)) for a in arrays))

    def batch(self, b: Any, operands: Sequence[Value], batched: Sequence[bool]) -> Sequence[Value]:
        if self.stacks_steps():
            return (self.all_steps(b, operands, batched),)
        return super().batch(b, operands, batched)

    def over_steps(self, b: Any, operands: Sequence[Any], stepped: Sequence[bool]) -> Any:
        """The sum of this product over steps, where operands that are `stepped` have the steps as a further
        leading axis; at least one is."""
        raise NotImplementedError(f"{self.name}.over_steps")

    def all_steps(self, b: Any, operands: Sequence[Any], stepped: Sequence[bool]) -> Any:
        """This product of every step, stacked along a leading axis, where operands that are `stepped` have one;
        at least one is."""
        raise NotImplementedError(f"{self.name}.all_steps")

    @classmethod
    def stacks_steps(cls) -> bool:
        """True where the class gives `all_steps`."""
        return cls.all_steps is not Contraction.all_steps

    @classmethod
    def sums_steps(cls) -> bool:
        """True where the class gives `over_steps`."""
        return cls.over_steps is not Contraction.over_steps


class Window(Accumulate):
    """Accumulation over a sliding window (pooling and its gradients)."""


class Scatter(GraphOp):
    """Adds source elements into a base at positions that an operand holds.

    Operands are (base, indices, source); `target` gives where source element `index` goes.
    Source elements that meet are added in row-major source order.
    """

    operand_names = ("base", "indices", "source")

    @classmethod
    def target(cls, s: ScalarBuilder[S], attrs: Attrs, types: Types, index: Index, indices: Read[S]) -> Index:
        """Index into the base for source `index`; `indices(j)` reads the index operand."""
        raise NotImplementedError(f"{cls.name}.target")


class Composite(GraphOp):
    """An op that is a small graph of others."""

    def decompose(self, b: Any) -> Value | Sequence[Value]:
        """The same results built from other ops with builder `b`."""
        raise NotImplementedError(f"{self.name}.decompose")

    def vjp(self, b: Any, cotangents: Sequence[Value | None]) -> Sequence[Value | None]:
        """Composites without a VJP of their own are decomposed before differentiation."""
        raise NotImplementedError

    def batch(self, b: Any, operands: Sequence[Value], batched: Sequence[bool]) -> Sequence[Value]:
        """By the parts, unless the op itself can be given a leading axis."""
        if self.leading is not None:
            return super().batch(b, operands, batched)
        parts = Graph(self.name)
        inputs = [parts.add_input(v.type) for v in self.operands]
        op = type(self)(inputs, self.attrs, self.result_types, self.loc)
        parts.insert(op)
        found = op.decompose(b.over(parts))
        results = [found] if isinstance(found, Value) else list(found)
        return b.all(parts, op, dict(zip(inputs, zip(operands, batched, strict=True), strict=True)), results)  # type: ignore[no-any-return]

    @classmethod
    def has_vjp(cls) -> bool:
        """True where the class gives a VJP of its own."""
        return cls.vjp is not Composite.vjp


def axes_of(prefix: str, extents: Sequence[Dim]) -> tuple[Symbol, ...]:
    """Axis symbols `prefix0, prefix1, …` bounded by the extents."""
    return tuple(new_axis(f"{prefix}{i}", e) for i, e in enumerate(extents))


def dtypes_named(names: Sequence[str]) -> list[DType]:
    """DTypes by name."""
    return [DTYPES[n] for n in names]


def _list(types: Types) -> str:
    return ", ".join(map(str, types))
