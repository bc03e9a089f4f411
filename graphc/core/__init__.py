"""The core of the API: tensors that record, evaluation, autograd, random state, run-time numbers.

User-level functions are written over `record`, `record_view` and `assign`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphc.core.anomaly import anomaly
from graphc.core.backward import backward, gradients
from graphc.core.custom import hook_in_region
from graphc.core.cuts import enter_outermost, mark_cut
from graphc.core.evaluate import cache_clear, cache_size, evaluate, pending_graph
from graphc.core.hooked import HookPoint, hook_value, hook_values, value_behind
from graphc.core.modes import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    no_grad,
    set_grad_enabled,
    unrecorded,
)
from graphc.core.numbers import NumberSlot, number_slot, scalar
from graphc.core.random import (
    Generator,
    default_generator,
    fork_rng,
    initial_seed,
    manual_seed,
    next_random,
    seed,
)
from graphc.core.recording import checkpointed, current
from graphc.core.section import Sections
from graphc.core.size import Size
from graphc.core.symint import (
    SymBool,
    SymInt,
    _check,
    assume,
    plain,
    register_division,
    sym_max,
    sym_min,
    symbolic,
)
from graphc.core.tensor import (
    TensorBase,
    assign,
    constant,
    from_array,
    record,
    record_view,
    register_parameter,
    register_tensor,
    wrap,
)
from graphc.ir.graph import Graph, Role
from graphc.runtime.state import bump_epoch

__all__ = [
    "Generator",
    "HookPoint",
    "NumberSlot",
    "Sections",
    "Size",
    "SymBool",
    "SymInt",
    "TensorBase",
    "_check",
    "anomaly",
    "assign",
    "assume",
    "backward",
    "bump_epoch",
    "cache_clear",
    "cache_size",
    "checkpointed",
    "constant",
    "current",
    "default_generator",
    "enable_grad",
    "enter_outermost",
    "evaluate",
    "fork_rng",
    "from_array",
    "gradients",
    "guard",
    "hook_in_region",
    "hook_value",
    "hook_values",
    "inference_mode",
    "initial_seed",
    "is_grad_enabled",
    "is_tracing",
    "manual_seed",
    "mark_cut",
    "new_storage",
    "next_random",
    "no_grad",
    "number_slot",
    "pending",
    "plain",
    "realize",
    "record",
    "record_view",
    "register_division",
    "register_parameter",
    "register_tensor",
    "scalar",
    "seed",
    "set_grad_enabled",
    "set_role",
    "sym_max",
    "sym_min",
    "symbolic",
    "unrecorded",
    "value_behind",
    "wrap",
]


def is_tracing() -> bool:
    """True inside a function that is being traced by `graphc.compile`."""
    return current().trace is not None


def guard(snapshot: Callable[[], Any]) -> None:
    """While tracing: the compiled program is valid only while `snapshot()` gives what it gives now.

    It is asked again only when the mutation epoch has moved. Outside of a trace nothing happens.
    """
    trace = current().trace
    if trace is not None:
        trace.guard(snapshot)


def realize(*tensors: Any) -> None:
    """Evaluates the given tensors now (everything pending in this thread where none are given)."""
    for t in tensors:
        t.realize()
    if not tensors:
        mark_cut()


def pending() -> Graph:
    """What this thread has recorded and not yet evaluated."""
    return pending_graph(current())


def new_storage(array: Any, role: Role, name: str = "") -> Any:
    """A realised tensor of its own storage, never a constant of a trace: optimiser state, buffers."""
    return from_array(array, share=False, role=role, name=name)


def set_role(tensor: Any, role: Role, name: str = "") -> None:
    """Says what a tensor is as an input of traced graphs."""
    tensor.realize()
    memory = tensor._storage.memory
    memory.role = role
    memory.name = name or memory.name
