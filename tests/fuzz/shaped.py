"""Random graphs of a few odd sizes: what code generation, fusion and planning may trip over.

Unlike `tests.fuzz.graphs`, whose values have the types of the ops' samples, shapes and attributes
are free here: views of every kind between reductions and contractions, axes around the vector
widths, empty and one-element axes, states that swap or read one another, outputs of all kinds.
Every choice is a call of `number(low, high)`, so that a plain generator can drive it, or hypothesis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st

from graphc.ir import REGISTRY, Builder, Graph
from graphc.ir.families import Elementwise, GraphOp, Reduce
from graphc.ir.graph import Location, Role, Value
from graphc.ir.types import DTYPES, TensorType
from tests.fuzz.graphs import Program
from tests.sampling import draw

__all__ = ["grow", "shaped_programs"]

Number = Callable[[int, int], int]
Shape = tuple[int, ...]

SIZES = (0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 130)
LARGE = 150_000
"""Enough for a reduction to be cut in chunks."""
MOST_ELEMENTS = 6_000
SPLATS = (0, 1, 2, -1)
NAMES = ("f32", "f32", "f64", "f16", "bf16", "i64", "i32", "u8", "i8", "i16", "bool")


@cache
def elementwise(dtype: str) -> list[type[GraphOp]]:
    """Ops whose operands may all be of a dtype, and which need no attribute but a dtype."""
    return [
        c
        for _, c in sorted(REGISTRY.items())
        if issubclass(c, Elementwise)
        and dtype in c.dtypes
        and not any(v is ... and name != "dtype" for name, v in c.attributes.items())
    ]


@cache
def reductions(dtype: str) -> list[type[GraphOp]]:
    return [c for _, c in sorted(REGISTRY.items()) if issubclass(c, Reduce) and dtype in c.dtypes]


class _Grower:
    def __init__(self, number: Number) -> None:
        self.number = number
        self.graph = Graph("shaped")
        self.builder = Builder(self.graph)
        self.rng = np.random.default_rng(number(0, 2**16))
        self.arrays: list[Any] = []
        self.values: list[Value] = []
        self.dtype = DTYPES[self.pick(NAMES)]
        self.sizes = [self.pick(SIZES) for _ in range(3)]
        self.most = LARGE if number(0, 19) == 19 else MOST_ELEMENTS
        if self.most == LARGE:
            self.sizes[0] = self.pick((140_000, 70_001, 300))
        self.actions: list[Callable[[Value], Any]] = [
            self.elementwise, self.elementwise, self.elementwise, self.reduce, self.normalise, self.reshape,
            self.permute, self.expand, self.slice, self.flip, self.pad, self.concat, self.update_slice,
            self.dot, self.dot, self.inner, self.gather, self.scatter, self.cast,
        ]  # fmt: skip

    def pick(self, things: Sequence[Any]) -> Any:
        return things[self.number(0, len(things) - 1)]

    def chance(self, one_in: int) -> bool:
        return self.number(1, one_in) == one_in

    def grow(self, steps: int) -> Program:
        for _ in range(self.number(1, 4)):
            types = [v.type for v in self.values]
            self.input(self.pick(types) if types and self.chance(2) else TensorType(self.dtype, self.shape()))
        for step in range(steps):
            self.builder.loc = Location("shaped.py", step + 1)
            recent = self.values if self.chance(4) else self.values[-3:]
            self.pick(self.actions)(self.pick(recent))
        self.outputs()
        return Program(self.graph, self.arrays)

    # -- values ---------------------------------------------------------------------------

    def shape(self) -> Shape:
        shape: Shape = ()
        for _ in range(self.number(0, 3)):
            size = self.pick(self.sizes)
            if math.prod(shape) * size <= self.most:
                shape += (size,)
        return shape

    def keep(self, made: Any) -> None:
        self.values += made if isinstance(made, tuple | list) else [made]

    def input(self, type_: TensorType, how: str = "") -> Value:
        if not how:
            how = self.pick(("normal", "normal", "any", "positive", "special"))
        self.arrays.append(draw(type_, how, self.rng))
        roles: tuple[Role, ...] = ("argument", "argument", "parameter", "buffer")
        value = self.graph.add_input(type_, self.pick(roles))
        if not how.startswith("index:"):
            self.values.append(value)
        return value

    def operand(self, type_: TensorType) -> Value:
        """A value of a type: one that is there, one expanded, a constant, or a new input."""
        b, kind = self.builder, self.number(0, 7)
        same = [v for v in self.values if v.type == type_]
        if same and kind < 4:
            return self.pick(same)  # type: ignore[no-any-return]
        fitting = [
            v for v in self.values if v.type.dtype is type_.dtype and _expands(v.type.sizes, type_.sizes)
        ]
        if fitting and kind < 6:
            return b.broadcast_to(self.pick(fitting), type_.shape)
        if kind == 6:
            splat = np.asarray(abs(self.pick(SPLATS))).astype(type_.dtype.numpy)
            return b.broadcast_to(b.constant(splat), type_.shape)
        return self.input(type_)

    # -- ops ------------------------------------------------------------------------------

    def elementwise(self, x: Value) -> None:
        cls = self.pick(elementwise(x.type.dtype.name))
        attrs = {"dtype": self.pick(list(DTYPES.values()))} if "dtype" in cls.attributes else {}
        operands = [self.operand(x.type) for _ in cls.operand_names]
        operands[self.number(0, len(operands) - 1)] = x
        if cls.operand_names[0] == "condition":
            operands = [self.condition(x), self.operand(x.type), x]
        self.keep(self.builder.create(cls, operands, **attrs).results)

    def condition(self, x: Value) -> Value:
        wanted = TensorType(DTYPES["bool"], x.type.shape)
        known = [v for v in self.values if v.type == wanted]
        return self.pick(known) if known else self.builder.le(x, self.operand(x.type))  # type: ignore[no-any-return]

    def cast(self, x: Value) -> None:
        self.keep(self.builder.cast(x, dtype=self.pick(list(DTYPES.values()))))

    def axes(self, x: Value) -> Shape:
        """Some axes, at least one where there is one."""
        chosen = {self.number(0, x.type.rank - 1) for _ in range(self.number(1, 3))} if x.type.rank else set()
        return tuple(sorted(chosen))

    def reduce(self, x: Value) -> None:
        cls, axes = self.pick(reductions(x.type.dtype.name)), self.axes(x)
        if not math.prod([x.type.sizes[a] for a in axes]):
            # Extrema of nothing are an error.
            cls = REGISTRY["any" if x.type.dtype.kind == "bool" else self.pick(("sum", "prod"))]
        self.keep(self.builder.create(cls, [x], axes=axes).results)

    def normalise(self, x: Value) -> None:
        """A reduction whose result meets its operand again, or a composite that does so."""
        b, axes = self.builder, self.axes(x)
        name = x.type.dtype.name
        if not math.prod(x.type.sizes) or name not in REGISTRY["sub"].dtypes:
            return self.reshape(x)
        if x.type.dtype.is_floating_point and axes and self.chance(2):
            kind = self.pick(("softmax", "log_softmax", "layer_norm", "var"))
            match kind:
                case "layer_norm":
                    self.keep(b.layer_norm(x, rank=self.number(1, x.type.rank)))
                case "var":
                    self.keep(b.var(x, axes=axes))
                case _:
                    self.keep(getattr(b, kind)(x, axis=axes[0]))
            return None
        reduced = getattr(b, self.pick(("sum", "max", "min")))(x, axes=axes)
        other = b.keep_dims(reduced, x.type.shape, axes)
        self.keep((reduced, getattr(b, self.pick(("sub", "mul", "maximum")))(x, other)))
        return None

    def reshape(self, x: Value) -> None:
        shape = list(x.type.sizes)
        at = self.number(0, max(0, len(shape) - 1))
        match self.number(0, 4):
            case 0:
                shape = [math.prod(shape)]
            case 1:
                shape.insert(self.number(0, len(shape)), 1)
            case 2 if len(shape) > 1:
                at = min(at, len(shape) - 2)
                shape[at : at + 2] = [shape[at] * shape[at + 1]]
            case 3 if shape and len(shape) < 5:
                factors = [f for f in (2, 3, 4, 5, 7, 8) if shape[at] % f == 0]
                if factors:
                    factor = self.pick(factors)
                    pair = [shape[at] // factor, factor]
                    shape[at : at + 1] = pair if self.chance(2) else pair[::-1]
            case _ if 1 in shape:
                shape.remove(1)
        self.keep(self.builder.reshape_to(x, tuple(shape)))

    def permute(self, x: Value) -> None:
        axes = list(range(x.type.rank))
        order = tuple(axes.pop(self.number(0, len(axes) - 1)) for _ in range(x.type.rank))
        self.keep(self.builder.permute(x, axes=order))

    def expand(self, x: Value) -> None:
        shape = [self.pick(self.sizes) if d == 1 else d for d in x.type.sizes]
        if len(shape) < 4 and self.chance(2):
            shape.insert(0, self.pick(self.sizes))
        if math.prod(shape) <= self.most:
            self.keep(self.builder.broadcast_to(x, tuple(shape)))

    def slice(self, x: Value) -> None:
        starts = tuple(self.number(0, min(d, 9)) for d in x.type.sizes)
        stops = tuple(d - self.number(0, min(d - s, 5)) for s, d in zip(starts, x.type.sizes, strict=True))
        strides = tuple(self.pick((1, 1, 2, 3)) for _ in starts)
        self.keep(self.builder.slice(x, starts=starts, stops=stops, strides=strides))

    def flip(self, x: Value) -> None:
        self.keep(self.builder.flip(x, axes=self.axes(x)))

    def pad(self, x: Value) -> None:
        low = tuple(self.number(-min(d, 2), 3) for d in x.type.sizes)
        high = tuple(self.number(-min(d + lo, 2), 3) for lo, d in zip(low, x.type.sizes, strict=True))
        made = self.builder.pad(x, low=low, high=high, value=self.number(0, 1))
        if made.type.numel <= self.most:
            self.keep(made)

    def concat(self, x: Value) -> None:
        if not x.type.rank:
            return self.expand(x)
        axis = self.number(0, x.type.rank - 1)

        def rest(v: Value) -> Any:
            return v.type.dtype, [d for i, d in enumerate(v.type.shape) if i != axis], v.type.rank

        fitting = [v for v in self.values if rest(v) == rest(x)]
        parts = [x, *(self.pick(fitting) for _ in range(self.number(1, 2)))]
        made = self.builder.concat(*(parts[::-1] if self.chance(2) else parts), axis=axis)
        if made.type.numel <= self.most:
            self.keep(made)
        return None

    def update_slice(self, base: Value) -> None:
        strides = tuple(self.pick((1, 1, 2)) for _ in base.type.sizes)
        counts = [self.number(0, -(-d // k)) for d, k in zip(base.type.sizes, strides, strict=True)]
        starts = tuple(
            self.number(0, max(0, d - (n - 1) * k - 1)) if n else 0
            for d, n, k in zip(base.type.sizes, counts, strides, strict=True)
        )
        update = self.operand(base.type.with_shape(tuple(counts)))
        self.keep(self.builder.update_slice(base, update, starts=starts, strides=strides))

    def dot(self, x: Value) -> None:
        """Batch and contracted axes where sizes agree; the right side is a known value or a new one."""
        if x.type.dtype.name not in REGISTRY["dot"].dtypes:
            return self.cast(x)
        known = [v for v in self.values if v.type.dtype is x.type.dtype]
        y = self.pick(known) if self.chance(2) else self.right_side(x)
        pairs: list[tuple[int, int]] = []
        for i, d in enumerate(x.type.sizes):
            free = [j for j, e in enumerate(y.type.sizes) if e == d and j not in [p[1] for p in pairs]]
            if free and not self.chance(3):
                pairs.append((i, self.pick(free)))
        batches = self.number(0, len(pairs)) if self.chance(3) else 0
        batch, contract = pairs[:batches], pairs[batches:]
        free_sizes = [d for i, d in enumerate(x.type.sizes) if i not in [p[0] for p in pairs]]
        free_sizes += [d for j, d in enumerate(y.type.sizes) if j not in [p[1] for p in pairs]]
        work = math.prod(free_sizes) * math.prod([x.type.sizes[p[0]] for p in pairs])
        if len(free_sizes) + batches > 5 or math.prod(free_sizes) > self.most or work > 40 * self.most:
            return self.reduce(x)
        sides = [tuple(tuple(p[k] for p in some) for k in (0, 1)) for some in (contract, batch)]
        self.keep(self.builder.dot(x, y, contract=sides[0], batch=sides[1]))
        return None

    def inner(self, x: Value) -> None:
        """Like a contraction, but two ops: rounded in between, and summed as a sum is."""
        if x.type.dtype.name not in REGISTRY["sum"].dtypes:
            return self.cast(x)
        product = self.builder.mul(x, self.operand(x.type))
        self.keep((product, self.builder.sum(product, axes=self.axes(x))))
        return None

    def right_side(self, x: Value) -> Value:
        shape = (self.pick(x.type.sizes), self.pick(self.sizes)) if x.type.rank else self.shape()
        if self.chance(2):
            shape = shape[::-1]
        return self.operand(x.type.with_shape(shape if math.prod(shape) <= self.most else ()))

    def indices(self, x: Value, axis: int, shape: Shape) -> Value | None:
        extent = x.type.sizes[axis]
        if not extent and 0 not in shape:
            return None
        # Seldom one that is out of range: then all ways of running the graph must fail.
        most = max(1, extent + (self.chance(30) and extent > 0))
        return self.input(TensorType(DTYPES[self.pick(("i64", "i32"))], shape), f"index:{most}")

    def gather(self, x: Value) -> None:
        if not x.type.rank:
            return self.reshape(x)
        axis = self.number(0, x.type.rank - 1)
        if self.chance(2):
            shape = tuple(
                self.pick(self.sizes) if i == axis else self.number(0, d) for i, d in enumerate(x.type.sizes)
            )
            indices = self.indices(x, axis, shape) if math.prod(shape) <= self.most else None
            if indices is not None:
                self.keep(self.builder.gather(x, indices, axis=axis))
            return None
        shape = tuple(self.pick(self.sizes) for _ in range(self.number(0, 2)))
        indices = None
        if math.prod(shape) * x.type.numel <= self.most * max(1, x.type.sizes[axis]) and x.type.rank < 4:
            indices = self.indices(x, axis, shape)
        if indices is not None:
            self.keep(self.builder.take(x, indices, axis=axis))
        return None

    def scatter(self, x: Value) -> None:
        if not x.type.rank or x.type.dtype.name not in REGISTRY["take_add"].dtypes:
            return self.flip(x)
        axis = self.number(0, x.type.rank - 1)
        count = self.number(0, 20)
        shape = tuple(count if i == axis else d for i, d in enumerate(x.type.sizes))
        if math.prod(shape) > self.most:
            return None
        rows = self.chance(2)
        indices = self.indices(x, axis, (count,) if rows else shape)
        if indices is not None:
            source = self.operand(x.type.with_shape(shape))
            add = self.builder.take_add if rows else self.builder.scatter_add
            self.keep(add(x, indices, source, axis=axis))
        return None

    # -- outputs --------------------------------------------------------------------------

    def outputs(self) -> None:
        """Any values, one perhaps twice, and new values of states: others, their own, each other's."""
        graph = self.graph
        sinks = [v for v in self.values if not v.uses and v.op is not None] or self.values
        graph.outputs = [self.values[-1], *(self.pick(sinks) for _ in range(self.number(0, 4)))]
        graph.outputs += [self.pick(self.values) for _ in range(self.number(0, 2))]
        for state in [v for v in graph.inputs if v.is_state]:
            fitting = [v for v in self.values if v.type == state.type]
            if fitting and not self.chance(4):
                graph.aliases[len(graph.outputs)] = state.index
                graph.outputs.append(self.pick([*fitting, *(v for v in fitting if v.is_state)]))


def _expands(shape: Shape, to: Shape) -> bool:
    lead = len(to) - len(shape)
    return lead >= 0 and all(d in (1, to[i + lead]) for i, d in enumerate(shape))


def grow(number: Number, max_steps: int = 10) -> Program:
    """A verified graph of up to `max_steps` steps of one or a few ops, with inputs."""
    return _Grower(number).grow(number(1, max_steps))


@st.composite
def shaped_programs(draw_: Any, max_steps: int = 10) -> Program:
    """`grow` driven by hypothesis."""
    return grow(lambda low, high: int(draw_(st.integers(low, high))), max_steps)
