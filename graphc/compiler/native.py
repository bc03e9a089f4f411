"""What the native entry knows of a compiled program: its signature, its results and where its states are."""

from __future__ import annotations

import functools
from typing import Any

from graphc.compiler.arguments import span
from graphc.compiler.program import SizedProgram
from graphc.compiler.tree import unflatten
from graphc.core.tensor import TensorBase, native_record
from graphc.runtime import entry
from graphc.runtime.state import grad_mode

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
    if found.way_back is not None or traced.grads or traced.gradients.of_arguments or traced.same:
        return None
    if any(p < found.arguments for p in found.compiled.aliases.values()):
        return None
    arguments: list[Any] = []
    position = 0
    for value in [*args, *kwargs.values()]:
        if isinstance(value, TensorBase):
            record = native_record(0, value.tensor_type, requires_grad=value.requires_grad)
            arguments.append((record, value))
            position += 1
        elif value is None or isinstance(value, (int, float, str, bytes, bool)):
            arguments.append(entry.Static(value))
        else:
            return None
    return _build_variant(found, arguments, tuple(kwargs), now)


def _build_variant(
    found: SizedProgram, arguments: list[Any], names: tuple[str, ...], now: int
) -> entry.Variant | None:
    tree = found.tree
    layout = _layout()
    native: list[Any] = []
    position = 0
    for given in arguments:
        if isinstance(given, entry.Static):
            native.append(given)
            continue
        record, value = given
        native.append(_tensor_argument(layout, record, value, position))
        position += 1
    results = [
        entry.TensorResult(layout, native_record(0, t), i, {"_type": t})
        for i, t in enumerate(found.fresh_types)
    ]
    kind, unflatten_ = _result_tree(tree)
    binding, written = bind_states(found)
    return entry.Variant(
        found.executable,
        binding,
        native,
        results,
        fail=found.compiled.fail,
        epoch=now,
        grad_mode=grad_mode(),
        keywords=names,
        tree=kind,
        unflatten=unflatten_,
        written=written,
    )


def _tensor_argument(layout: entry.TensorLayout, record: bytes, value: Any, position: int) -> Any:
    memory = value._storage.memory
    if value._record is None:  # made from an array for this call
        return entry.Array(value.dtype.numpy, value.tensor_type.sizes, position)
    aligned = memory.address % 64 == 0
    # The signature holds the alignment flag of the address, so take it from the real one.
    return entry.TensorArgument(
        layout, record[:8] + value._record[8:] if aligned else value._record, position
    )


def _result_tree(tree: Any) -> tuple[str, Any]:
    if tree == ("leaf",):
        return "single", None
    if tree[0] == "static" and tree[1] is None:
        return "none", None
    if tree[0] in (tuple, list) and all(t == ("leaf",) for t in tree[2]):
        return tree[0].__name__, None
    return "unflatten", functools.partial(_unflatten_results, tree)


def _unflatten_results(tree: Any, leaves: tuple[Any, ...]) -> Any:
    return unflatten(tree, iter(leaves))
