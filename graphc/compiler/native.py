"""What the native entry knows of a compiled program: its signature, its results and where its states are."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

from graphc.compiler.arguments import argument, span
from graphc.compiler.program import SizedProgram
from graphc.compiler.tree import unflatten
from graphc.core.modes import is_grad_enabled
from graphc.core.tensor import TensorBase, native_record
from graphc.runtime import entry
from graphc.runtime.state import epoch

__all__ = ["bind_states", "native_variant"]


@functools.cache
def _layout() -> entry.TensorLayout:
    cls = TensorBase._tensor_class
    defaults = {
        "_cache": None,
        "_chain": (),
        "_detached": False,
        "_grad": None,
        "_leaf": False,
        "_stored": None,
        "_type": None,
    }
    return entry.TensorLayout(cls, also=TensorBase._parameter_class, defaults=defaults)


def bind_states(found: SizedProgram) -> tuple[Any, list[tuple[int, int]]]:
    """The states' addresses for the native entry, and which spans of memory a call writes."""
    return found.binding(), [span(m) for m in found.written]


def native_variant(found: SizedProgram, args: Any, kwargs: Any, now: int) -> entry.Variant | None:
    """The signature for the native entry; None where only Python can serve it."""
    traced = found.traced
    if traced.grads or traced.gradients.of_arguments or traced.same:
        return None
    if any(p < found.arguments for p in found.compiled.aliases.values()):
        return None
    arguments = _arguments(args, kwargs)
    if arguments is None:
        return None
    tree = found.tree
    layout = _layout()
    results = [
        entry.TensorResult(layout, native_record(0, t), i, {"_type": t})
        for i, t in enumerate(found.fresh_types)
    ]
    kind, unflatten_ = _result_tree(tree)
    if found.way_back is not None:
        inputs = {a.input: n for n, a in enumerate(arguments) if isinstance(a, entry.TensorArgument)}
        order = [inputs[i] for i in range(len(inputs))]
        kind, unflatten_ = "finish", functools.partial(_with_tape, found, order)
    binding, written = bind_states(found)
    return entry.Variant(
        found.executable,
        binding,
        arguments,
        results,
        fail=found.compiled.fail,
        epoch=now,
        grad_mode=int(is_grad_enabled()),
        keywords=tuple(kwargs),
        tree=kind,
        unflatten=unflatten_,
        written=written,
    )


def _arguments(args: Any, kwargs: Any) -> list[entry.Argument] | None:
    """What the native entry is to expect: the arguments, then the items of nests; None where Python alone can tell."""
    inputs = itertools.count()
    given = [_described(value, inputs) for value in [*args, *kwargs.values()]]
    arguments: list[entry.Argument] = []
    storages: dict[int, int] = {}
    for value, position, items in given:  # grows while nests are found
        if items is not None:
            keys = tuple(value) if isinstance(value, dict) else ()
            arguments.append(entry.Nest(type(value), len(items), len(given), keys))
            given += items
        elif isinstance(value, TensorBase):
            twin = storages.setdefault(id(value._storage), len(arguments))
            arguments.append(_tensor_argument(value, position, twin if twin < len(arguments) else None))
        elif value is None or isinstance(value, (int, float, str, bytes, bool)):
            arguments.append(entry.Static(value))
        else:
            return None
    return arguments


_Given = tuple[Any, int, list[Any] | None]
"""An argument, which input it is (of a tensor), its items (of a nest)."""


def _described(value: Any, inputs: Iterator[int]) -> _Given:
    """An argument with its items, where the native entry can look into it; inputs are numbered as leaves are."""
    if isinstance(value, TensorBase):
        return value, next(inputs), None
    kind = type(value)
    if hasattr(kind, "__flatten_nest__"):
        return value, -1, None
    if kind is dict:
        return value, -1, [_described(x, inputs) for x in value.values()]
    if kind is list or (isinstance(value, tuple) and kind.__iter__ is tuple.__iter__):
        return value, -1, [_described(x, inputs) for x in value]
    return value, -1, None


def _tensor_argument(value: Any, position: int, twin: int | None) -> entry.TensorArgument:
    record = native_record(0, value.tensor_type, requires_grad=value.requires_grad)
    dtype = value.dtype.numpy
    arrays = None if value.requires_grad or dtype.kind == "V" else dtype
    return entry.TensorArgument(_layout(), record, position, arrays, twin=twin)


def _result_tree(tree: Any) -> tuple[str, Any]:
    if tree == ("leaf",):
        return "single", None
    if tree[0] == "static" and tree[1] is None:
        return "none", None
    if tree[0] in (tuple, list) and all(t == ("leaf",) for t in tree[2]):
        return tree[0].__name__, None
    return "unflatten", functools.partial(_unflatten_results, tree)


def _with_tape(found: SizedProgram, order: list[int], results: tuple[Any, ...], *given: Any) -> Any:
    """A native call's value, on the tape: as `SizedProgram.run` leaves it. `order` says where in `given` the inputs are."""
    assert found.way_back is not None
    leaves = [given[n] for n in order]
    tensors: list[Any] = [t if isinstance(t, TensorBase) and not t._chain else argument(t) for t in leaves]
    assert found.variant is not None
    current = found.variant.epoch == epoch()
    found.count_writes()
    memories = [*(t._storage.memory for t in tensors), *found.native]
    found.way_back.attach([r._storage.node for r in results], tensors, memories, found.traced)
    if current:
        found.variant.epoch = (
            epoch()
        )  # nothing is pending, and this function's writes are counted in each call
    for n in found.way_back.roots:
        results[n]._record = None  # says that it does not require grad
    return unflatten(found.tree, iter(results[: found.traced.returned]))


def _unflatten_results(tree: Any, leaves: tuple[Any, ...]) -> Any:
    return unflatten(tree, iter(leaves))
