"""Dynamic dimensions of a compiled function: what `dynamic=` says, and what the sizes of a call are.

`Axes` is the declaration, checked once: which axis of which argument has which symbol. At a call it
gives the symbolic types that a program is traced for, and the symbols' values. Invariant: a
program is run only with sizes inside of the declared ranges for which every op of its trace has
the types that the trace says.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from graphc.compiler.tree import argument_names
from graphc.core.location import user_location, warn_user
from graphc.core.symint import Assumption, holds, is_decided
from graphc.ir.dims import Dim as Size
from graphc.ir.dims import Symbol
from graphc.ir.errors import located
from graphc.ir.families import Elementwise, GraphOp
from graphc.ir.graph import Graph, Location
from graphc.ir.records import dataclass
from graphc.ir.specialise import concrete
from graphc.ir.types import TensorType

__all__ = ["Axes", "Dim", "ShapeWatch", "SizeChecks", "Sizes", "declared_axes"]

Sizes = Mapping[Symbol, int]

MANY_SHAPES = 8
"""Shapes of the same arguments that a function is compiled for without a word."""


class Dim:
    """A named dynamic dimension with inclusive bounds, for `compile(dynamic=…)`; `max` None is unbounded.

    Raises TypeError or ValueError for a name that is no identifier, and for bounds that are no range of sizes.
    """

    __slots__ = ("max", "min", "name")

    def __init__(self, name: str, *, min: int = 0, max: int | None = None) -> None:
        if not isinstance(name, str):
            raise TypeError(f"Dim: the name must be a str, got {type(name).__name__}")
        if not name.isidentifier() or not name.isascii():
            raise ValueError(f"Dim: the name must be an identifier like 'batch', got {name!r}")
        for what, bound in (("min", min), ("max", max)):
            if bound is None and what == "max":
                continue
            if isinstance(bound, bool) or not isinstance(bound, int):
                raise TypeError(f"Dim({name!r}): {what} must be an int, got {type(bound).__name__}")
        if min < 0 or (max is not None and max < min):
            raise ValueError(f"Dim({name!r}): expected 0 <= min <= max, got min={min}, max={max}")
        self.name, self.min, self.max = name, min, max

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def _values(self) -> tuple[str, int, int | None]:
        return self.name, self.min, self.max

    def __repr__(self) -> str:
        return f"Dim({self.name!r}, min={self.min}, max={self.max})"

    @property
    def symbol(self) -> Symbol:
        """The symbol of graphs that stands for the dimension."""
        return Symbol(self.name, self.min, self.max)


@dataclass(frozen=True)
class Axes:
    """Which axes of which arguments are dynamic: parameter name -> axis (as given) -> symbol."""

    by_name: Mapping[str, Mapping[int, Symbol]]

    @property
    def symbols(self) -> tuple[Symbol, ...]:
        """The named sizes, as they are declared."""
        return tuple(dict.fromkeys(s for axes in self.by_name.values() for s in axes.values()))

    def apply(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        types: Sequence[TensorType],
    ) -> tuple[list[TensorType], dict[Symbol, int]]:
        """Symbolic types of the argument leaves, and the sizes of this call.

        Raises IndexError for an axis that a tensor does not have, ValueError for a size outside of its range or
        two sizes of one name, at the user's line.
        """
        sizes: dict[Symbol, int] = {}
        first: dict[Symbol, str] = {}
        result = []
        used: set[str] = set()
        for name, type_ in zip(argument_names(function, args, kwargs), types, strict=True):
            axes = self.by_name.get(name)
            if axes is None:
                result.append(type_)
                continue
            used.add(name)
            shape: list[Size] = list(type_.shape)
            for given, symbol in axes.items():
                axis = given + type_.rank if given < 0 else given
                if not 0 <= axis < type_.rank:
                    raise _at_user(
                        IndexError,
                        f"dynamic={{{name!r}: {{{given}: …}}}}: {name} is {type_}, which has no such axis",
                    )
                size = type_.sizes[axis]
                where = f"axis {given} of {name}"
                if sizes.setdefault(symbol, size) != size:
                    raise _at_user(
                        ValueError,
                        f"{where} is {size}, but {first[symbol]}, which has the same name {symbol.name!r}, is "
                        f"{sizes[symbol]}: sizes of one name must agree",
                    )
                first.setdefault(symbol, where)
                if size < symbol.lo or (symbol.hi is not None and size > symbol.hi):
                    most = "any size" if symbol.hi is None else symbol.hi
                    raise _at_user(
                        ValueError,
                        f"{where} is {size}, which is outside of its declared range: {symbol.name!r} is {symbol.lo} "
                        f"to {most}; pass a tensor of such a size, or widen Dim({symbol.name!r}, min=…, max=…)",
                    )
                shape[axis] = symbol.expr
            result.append(type_.with_shape(tuple(shape)))
        for name in self.by_name:
            if name not in used:
                tensors = ", ".join(argument_names(function, args, kwargs)) or "none"
                raise _at_user(
                    TypeError,
                    f"dynamic={{{name!r}: …}}: argument {name} is no Tensor or array in this call, whose Tensors are "
                    f"{tensors}",
                )
        return result, sizes


def _at_user(error: type[Exception], message: str) -> Exception:
    where = user_location()
    return _at(where, error, message)


def _at(where: Location | None, error: type[Exception], message: str) -> Exception:
    filename, lineno = (None, None) if where is None else (where.filename, where.lineno)
    return located(error, message, filename, lineno)


def declared_axes(function: Callable[..., Any], dynamic: Any) -> Axes | None:
    """What `dynamic=` of `graphc.compile` says about `function`; None where no axis is dynamic.

    Raises TypeError or ValueError for what is no such declaration, naming what was expected.
    """
    if dynamic is None:
        return None
    if not isinstance(dynamic, Mapping):
        raise TypeError(
            "graphc.compile: dynamic must map a parameter's name or position to its dynamic axes, like "
            f'dynamic={{"x": {{0: "batch"}}}}, got {type(dynamic).__name__}'
        )
    names, several = _parameters(function)
    found: dict[str, dict[int, Symbol]] = {}
    known: dict[str, Symbol] = {}
    for key, axes in dynamic.items():
        name = _parameter(key, names, several)
        if not isinstance(axes, Mapping):
            raise TypeError(
                f'graphc.compile: dynamic[{key!r}] must map axes to names, like {{0: "batch"}}, got '
                f"{type(axes).__name__}"
            )
        if name in found:
            raise ValueError(f"graphc.compile: dynamic names the parameter {name!r} twice")
        found[name] = {axis: _symbol(key, axis, dim, known) for axis, dim in axes.items()}
    found = {name: axes for name, axes in found.items() if axes}
    return Axes(found) if found else None


def _parameters(function: Callable[..., Any]) -> tuple[list[str], bool]:
    """Names of the parameters, and whether there may be others."""
    try:
        parameters = inspect.signature(getattr(function, "forward", function)).parameters.values()
    except (TypeError, ValueError):
        return [], True
    named = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return named, len(named) < len(parameters)


def _parameter(key: Any, names: Sequence[str], several: bool) -> str:
    if isinstance(key, bool) or not isinstance(key, (int, str)):
        raise TypeError(
            f"graphc.compile: a key of dynamic must be a parameter's name or position, got {type(key).__name__}"
        )
    if isinstance(key, int):
        if not 0 <= key < len(names):
            raise ValueError(
                f"graphc.compile: dynamic[{key}]: the function has parameters {', '.join(names)}"
            )
        return names[key]
    if key.partition(".")[0] not in names and not several:
        raise ValueError(
            f"graphc.compile: dynamic[{key!r}]: the function has no parameter of this name, only {', '.join(names)}"
        )
    return key


def _symbol(key: Any, axis: Any, dim: Any, known: dict[str, Symbol]) -> Symbol:
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise TypeError(
            f"graphc.compile: dynamic[{key!r}]: an axis must be an int, got {type(axis).__name__}"
        )
    if not isinstance(dim, (str, Dim)):
        raise TypeError(
            f"graphc.compile: dynamic[{key!r}][{axis}] must be a name or a graphc.Dim, got {type(dim).__name__}"
        )
    symbol = (Dim(dim) if isinstance(dim, str) else dim).symbol
    if isinstance(dim, str) and symbol.name in known:
        return known[symbol.name]
    if known.setdefault(symbol.name, symbol) != symbol:
        other = known[symbol.name]
        raise ValueError(
            f"graphc.compile: dynamic gives {symbol.name!r} two ranges, {other.lo} to {other.hi} and {symbol.lo} to "
            f"{symbol.hi}"
        )
    return symbol


class ShapeWatch:
    """Notes for which shapes a function is compiled, and warns once where it is compiled again and again."""

    def __init__(self) -> None:
        self._seen: dict[Any, list[Sequence[TensorType]]] = {}
        self._warned = False

    def note(self, function: str, names: Sequence[str], types: Sequence[TensorType], tree: Any) -> None:
        """A program is being made for argument leaves of these types, in the nest that `tree` describes."""
        alike = (tree, tuple([(t.dtype, t.rank) for t in types]))
        seen = self._seen.setdefault(alike, [])
        if self._warned or types in seen:
            return
        seen.append(types)
        if len(seen) <= MANY_SHAPES:
            return
        self._warned = True
        varying = [
            (name, axis, [t[i].shape[axis] for t in seen])
            for i, name in enumerate(names)
            for axis in range(types[i].rank)
            if len({t[i].shape[axis] for t in seen}) > 1
        ]
        said = "; ".join(f"axis {axis} of {name} was {', '.join(map(str, s))}" for name, axis, s in varying)
        spelt: dict[str, list[str]] = {}
        for name, axis, _ in varying:
            spelt.setdefault(name, []).append(f'{axis}: "{name.replace(".", "_")}_{axis}"')
        how = ", ".join(f'"{name}": {{{", ".join(axes)}}}' for name, axes in spelt.items())
        message = (
            f"{function} is compiled for the {len(seen)}th shape of its arguments, because each shape gets a program of "
            f"its own: {said}. graphc.compile(..., dynamic={{{how}}}) makes one program for all sizes"
        )
        warn_user(message)


class _Check(NamedTuple):
    """One op of a trace whose types depend on sizes."""

    kind: type[GraphOp]
    operands: tuple[TensorType, ...]
    attrs: Mapping[str, Any]
    results: tuple[TensorType, ...]
    loc: Location | None


class SizeChecks:
    """What a trace took sizes to be like: its assumptions, and the types of its ops.

    Inference decides only what the bounds decide, so every op is inferred again with the sizes of a call.
    """

    def __init__(self, graph: Graph, assumptions: Sequence[Assumption]) -> None:
        self._assumptions = tuple(assumptions)
        self._checks = [
            _Check(type(op), op.operand_types, op.attrs, op.result_types, op.loc)
            for op in _symbolic_ops(graph)
        ]

    def check(self, sizes: Sizes) -> None:
        """Raises where the traced graph does not mean at these sizes what its trace took it to mean: an op that
        does not take them raises what it raises for such tensors, at the user's line."""
        for a in self._assumptions:
            if not a.holds(concrete(a.difference, sizes)):
                raise _at(a.loc, a.error, f"{a.message} (with {_text(sizes)})")
        for op in self._checks:
            _check_op(op, sizes)

    def requirements(self) -> Iterator[tuple[Size, str, type[Exception], str]]:
        """All that `check` looks at and that no bounds decide: a difference of sizes, how it is to stand to 0, the
        exception and its message. Raises NotImplementedError where an op's rule is not of that form."""
        for a in self._assumptions:
            yield a.difference, a.relation, a.error, a.message
        for op in self._checks:
            where = "" if op.loc is None else f" at {op.loc.filename}:{op.loc.lineno}"
            for difference, relation in op.kind.requirements(op.operands, op.attrs):
                if not is_decided(difference, relation):
                    text = f"{op.kind.name}{where} needs sizes with {difference} {relation} 0"
                    yield difference, relation, RuntimeError, text

    def agree(self, sizes: Sizes) -> bool:
        """Whether `check` and `requirements` say the same of these sizes."""
        required = all(
            holds(relation, concrete(difference, sizes)) for difference, relation, *_ in self.requirements()
        )
        try:
            self.check(sizes)
        except _INFERENCE_ERRORS:
            return not required
        return required


_INFERENCE_ERRORS = (
    TypeError,
    RuntimeError,
    ValueError,
    IndexError,
    NotImplementedError,
    ZeroDivisionError,
)


def _check_op(op: _Check, sizes: Sizes) -> None:
    operands = [concrete(t, sizes) for t in op.operands]
    try:
        found = tuple(op.kind.infer(operands, {k: concrete(v, sizes) for k, v in op.attrs.items()}))
    except _INFERENCE_ERRORS as error:
        raise _at(op.loc, type(error), f"{error} (with {_text(sizes)})") from None
    expected = tuple([concrete(t, sizes) for t in op.results])
    if found != expected:
        raise _at(
            op.loc,
            RuntimeError,
            f"{op.kind.name} gives {_types(found)} with {_text(sizes)}, but the program was made for sizes where it "
            f"gives {_types(op.results)}, here {_types(expected)}; give these sizes a range of their own, "
            "Dim(name, min=…, max=…), or leave the axis out of dynamic=",
        )


def _types(types: Sequence[TensorType]) -> str:
    return ", ".join(map(str, types))


def _text(sizes: Sizes) -> str:
    return ", ".join(f"{s.name}={n}" for s, n in sizes.items())


def _symbolic_ops(graph: Graph) -> Iterator[GraphOp]:
    for op in graph.ops:
        for region in op.regions:
            yield from _symbolic_ops(region)
        if isinstance(op, Elementwise) or op.regions or not isinstance(op, GraphOp):
            continue
        if any(not t.is_static for t in (*op.operand_types, *op.result_types)):
            yield op
