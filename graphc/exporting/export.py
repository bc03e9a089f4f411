"""`export_library`: a traced function as a shared library, header, C example and interface file.

The library links the very kernel objects that the process runs for the same target, so its
results are equal to the last bit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from graphc.backends.llvm.codegen import kernel_calls, kernel_objects
from graphc.backends.llvm.host.export import (
    ABI_VERSION,
    export_objects,
    state_bytes,
    workspace_bytes,
)
from graphc.backends.llvm.host.sized import Requirement, Sized
from graphc.backends.llvm.link import link_shared
from graphc.compiler.compiled import Compiled, CompileOptions
from graphc.compiler.driver import lower_graph, make_context
from graphc.compiler.dynamic import SizeChecks, declared_axes
from graphc.compiler.tracing import Traced
from graphc.exporting.c_text import example_text, header_text
from graphc.exporting.interface import BufferInfo, DimInfo, Interface
from graphc.ir.dims import Dim, Symbol
from graphc.ir.program import BufferKind, Program
from graphc.ir.records import dataclass
from graphc.passes.plan.arena import Lifetime, places_below

__all__ = ["ExportedLibrary", "export_library"]

_ALIGNMENT = 64


@dataclass(frozen=True)
class ExportedLibrary:
    """The files of an export."""

    library: Path
    header: Path
    example: Path
    interface: Path


def export_library(
    fn_or_module: Callable[..., Any],
    example_args: Sequence[Any],
    path: str | os.PathLike[str],
    *,
    name: str | None = None,
    target: str = "host",
    weights: str = "embedded",
    dynamic: Any = None,
) -> ExportedLibrary:
    """Compiles a function or Module for the types of `example_args` and writes `lib<name>.so`.

    Beside it go `<name>.h`, `<name>_example.c` and `<name>.json`. Tensors that the function reads or
    writes and that are no arguments (parameters, optimiser state, the learning rate) are the state
    block, whose initial values are the present ones. Exporting a training step exports training.
    Nothing is executed or changed. `target` is `"host"` or the name of another target.

    `dynamic` names sizes as in `graphc.compile`; so does a function that was compiled with it. The library then
    serves every size in their bounds: `run` takes the sizes as an array of int64 in the order of their declaration.

    Raises MissingToolError without a linker, TraceError where the function cannot be traced, ValueError
    where it writes an argument in place.
    """
    if weights != "embedded":
        raise NotImplementedError(f'export_library: weights must be "embedded", got {weights!r}')
    file = Path(path)
    name = name or re.sub(r"^lib|\..*$", "", file.name)
    if not re.fullmatch(r"[a-z_]\w*", name, re.IGNORECASE | re.ASCII):
        raise ValueError(f"a library's name must be a C identifier, got {name!r}; pass name=")
    if not isinstance(fn_or_module, Compiled):
        axes = declared_axes(fn_or_module, dynamic)
        compiled = Compiled.make(fn_or_module, CompileOptions(), axes)
    elif dynamic is not None:
        raise ValueError(
            "export_library: dynamic is for a function that is not compiled yet; this one is compiled with the sizes "
            "that graphc.compile was given: pass dynamic there, or the function itself here"
        )
    else:
        compiled = fn_or_module
    args = tuple(example_args) if isinstance(example_args, (tuple, list)) else (example_args,)
    traced = compiled.traced(*args)
    _forbid_written_arguments(traced)
    context = make_context(target)
    program = _with_offsets(lower_graph(traced.graph.copy(), context).program)
    sized = _sized(compiled.named_sizes, traced, program) if compiled.is_dynamic else None
    interface = _interface(name, context.target.name, program, traced, sized)
    symbols = kernel_calls(program, context.target)
    objects = export_objects(
        program,
        symbols,
        context.target,
        name,
        states=[s.memory.array for s in traced.states],
        learning_rates=_learning_rates(traced),
        fingerprint=interface.fingerprint,
        sized=sized,
    )
    objects += kernel_objects(program, context.target).values()
    library = link_shared(objects, file, context.target, exports=[f"{name}_*"])
    files = ExportedLibrary(
        library,
        file.parent / f"{name}.h",
        file.parent / f"{name}_example.c",
        file.parent / f"{name}.json",
    )
    files.header.write_text(header_text(interface), encoding="utf-8")
    files.example.write_text(example_text(interface), encoding="utf-8")
    files.interface.write_text(interface.to_json(), encoding="utf-8")
    return files


def _with_offsets(program: Program) -> Program:
    """The program with each state placed in the state block."""
    offsets, at = {}, 0
    for buffer in program.of_kind("state"):
        offsets[buffer.index] = at
        at += -(-buffer.type.nbytes // _ALIGNMENT) * _ALIGNMENT
    placed = tuple(replace(b, offset=offsets[b.index]) if b.kind == "state" else b for b in program.buffers)
    return replace(program, buffers=placed)


def _sized(symbols: Sequence[Symbol], traced: Traced, program: Program) -> Sized:
    """What the library is to know of sizes. Raises NotImplementedError where a run could not check all that a call of
    the function does."""
    checks = SizeChecks(traced.graph, traced.assumptions)
    for sizes in _samples(symbols):
        if not checks.agree(sizes):
            said = ", ".join(f"{s.name}={n}" for s, n in sizes.items())
            raise NotImplementedError(
                f"export_library: what is checked of sizes like {said} cannot be checked by a library; give the sizes "
                "bounds that make the checks needless, or export one size"
            )
    needed = [
        Requirement(d, relation, error.__name__, text) for d, relation, error, text in checks.requirements()
    ]
    rows = [row for row, _, _ in program.lives]
    lives = [Lifetime(program.buffers[r].type.typical_bytes, first, last) for r, first, last in program.lives]
    below = places_below(lives, [program.buffers[r].offset for r in rows])
    return Sized(
        tuple(symbols), tuple(needed), {rows[i]: [rows[j] for j in under] for i, under in below.items()}
    )


_SAMPLES = (0, 1, 2, 3, 4, 5, 7, 8, 12, 16, 33, 64, 100)


def _samples(symbols: Sequence[Symbol]) -> Iterator[dict[Symbol, int]]:
    """Sizes in their bounds: all alike, and some that differ."""
    for n in range(len(_SAMPLES)):
        for apart in (0, 1, 5):
            yield {
                s: max(
                    s.lo, min(_SAMPLES[(n + apart * i) % len(_SAMPLES)], s.lo + 100 if s.hi is None else s.hi)
                )
                for i, s in enumerate(symbols)
            }


def _forbid_written_arguments(traced: Traced) -> None:
    """Inputs of the C interface are read-only."""
    for j in traced.graph.aliases.values():
        value = traced.graph.inputs[j]
        if not value.is_state:
            raise ValueError(
                f"export_library: the function writes its argument {value.name!r} in place, but inputs of a "
                "library are read-only; return the new value instead"
            )


def _learning_rates(traced: Traced) -> list[int]:
    """The states that are learning rates, one per parameter group."""
    return [i for i, s in enumerate(traced.states) if s.fixed.role == "scalar" and s.fixed.name == "lr"]


def _state_names(traced: Traced) -> list[str]:
    """A name of its own for each state."""
    names: dict[str, None] = {}
    for i, s in enumerate(traced.states):
        first = name = s.fixed.name or f"state{i}"
        number = 1
        while name in names:
            name, number = f"{first}.{number}", number + 1
        names[name] = None
    return list(names)


def _interface(name: str, target: str, program: Program, traced: Traced, sized: Sized | None) -> Interface:
    def info(kind: BufferKind, labels: Sequence[str]) -> tuple[BufferInfo, ...]:
        return tuple(
            BufferInfo(labels[b.index], b.type.dtype.name, tuple(map(_spelt, b.type.shape)))
            for b in program.of_kind(kind)
        )

    inputs = traced.graph.inputs
    first_state = sum(not v.is_state for v in inputs)
    written = {j - first_state for j in traced.graph.aliases.values()}
    states = tuple(
        replace(row, offset=b.offset, role=traced.states[b.index].fixed.role, written=b.index in written)
        for row, b in zip(info("state", _state_names(traced)), program.of_kind("state"), strict=True)
    )
    errors = [(c.exception, c.message) for c in program.checks]
    if sized is not None:
        errors += [(r.exception, r.message) for r in sized.requirements]
    return Interface(
        name=name,
        target=target,
        abi_version=ABI_VERSION,
        state_bytes=state_bytes(program),
        workspace_bytes=workspace_bytes(program) if sized is None else 0,
        inputs=info("input", [v.name for v in inputs if not v.is_state]),
        outputs=info("output", [f"output{i}" for i in range(len(traced.graph.outputs))]),
        states=states,
        errors=dict(enumerate(errors, 1)),
        has_learning_rate=bool(_learning_rates(traced)),
        dims=() if sized is None else tuple(DimInfo(s.name, s.lo, s.hi) for s in sized.symbols),
    )


def _spelt(d: Dim) -> int | str:
    """A size as the interface file spells it."""
    return d if isinstance(d, int) else str(d).replace("$", "")
