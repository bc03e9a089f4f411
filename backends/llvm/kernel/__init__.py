"""Code generation for map, reduce and scatter kernels, and stage bodies for the contraction engine.

`emit_kernel` turns any scheduled kernel into one LLVM function. `BodySpace` and `Scope` with
`run` emit a stage's instructions at a point of somebody else's loops.
"""

from graphc.backends.llvm.kernel.body import combine, run
from graphc.backends.llvm.kernel.emit import emit_kernel, emit_rows
from graphc.backends.llvm.kernel.plan import scratch_bytes, sequential_schedule
from graphc.backends.llvm.kernel.scope import BodySpace, Scope
from graphc.backends.llvm.kernel.values import (
    carrier,
    constant,
    from_memory,
    memory_type,
    round_to,
    to_memory,
)

__all__ = [
    "BodySpace",
    "Scope",
    "carrier",
    "combine",
    "constant",
    "emit_kernel",
    "emit_rows",
    "from_memory",
    "memory_type",
    "round_to",
    "run",
    "scratch_bytes",
    "sequential_schedule",
    "to_memory",
]
