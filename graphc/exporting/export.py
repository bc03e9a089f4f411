"""`export_library`: a traced function as a shared library, header, C example and interface file.

The library links the very kernel objects that the process runs for the same target, so its
results are equal to the last bit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from graphc.backends.llvm.codegen import kernel_calls, kernel_objects
from graphc.backends.llvm.host.export import (
    ABI_VERSION,
    export_objects,
    state_bytes,
    workspace_bytes,
)
from graphc.backends.llvm.link import link_shared
from graphc.compiler.compiled import Compiled, CompileOptions
from graphc.compiler.driver import lower_graph, make_context
from graphc.compiler.tracing import Traced
from graphc.exporting.c_text import example_text, header_text
from graphc.exporting.interface import BufferInfo, Interface
from graphc.ir.program import BufferKind, Program

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

    Raises MissingToolError without a linker, TraceError where the function cannot be traced, ValueError
    where it writes an argument in place.
    """
    if dynamic is not None:
        raise NotImplementedError("export_library: dynamic is not supported yet")
    if isinstance(fn_or_module, Compiled) and fn_or_module.is_dynamic:
        raise NotImplementedError(
            "export_library: a function compiled with dynamic= cannot be exported yet; export the function itself for "
            "one size"
        )
    if weights != "embedded":
        raise NotImplementedError(f'export_library: weights must be "embedded", got {weights!r}')
    file = Path(path)
    name = name or re.sub(r"^lib|\..*$", "", file.name)
    if not re.fullmatch(r"[a-z_]\w*", name, re.IGNORECASE | re.ASCII):
        raise ValueError(f"a library's name must be a C identifier, got {name!r}; pass name=")
    compiled = (
        fn_or_module if isinstance(fn_or_module, Compiled) else Compiled.make(fn_or_module, CompileOptions())
    )
    args = tuple(example_args) if isinstance(example_args, (tuple, list)) else (example_args,)
    traced = compiled.traced(*args)
    _forbid_written_arguments(traced)
    context = make_context(target)
    program = _with_offsets(lower_graph(traced.graph.copy(), context).program)
    interface = _interface(name, context.target.name, program, traced)
    symbols = kernel_calls(program, context.target)
    objects = export_objects(
        program,
        symbols,
        context.target,
        name,
        states=[s.memory.array for s in traced.states],
        learning_rates=_learning_rates(traced),
        fingerprint=interface.fingerprint,
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


def _interface(name: str, target: str, program: Program, traced: Traced) -> Interface:
    def info(kind: BufferKind, labels: Sequence[str]) -> tuple[BufferInfo, ...]:
        return tuple(
            BufferInfo(labels[b.index], b.type.dtype.name, b.type.sizes) for b in program.of_kind(kind)
        )

    inputs = traced.graph.inputs
    first_state = sum(not v.is_state for v in inputs)
    written = {j - first_state for j in traced.graph.aliases.values()}
    states = tuple(
        replace(row, offset=b.offset, role=traced.states[b.index].fixed.role, written=b.index in written)
        for row, b in zip(info("state", _state_names(traced)), program.of_kind("state"), strict=True)
    )
    return Interface(
        name=name,
        target=target,
        abi_version=ABI_VERSION,
        state_bytes=state_bytes(program),
        workspace_bytes=workspace_bytes(program),
        inputs=info("input", [v.name for v in inputs if not v.is_state]),
        outputs=info("output", [f"output{i}" for i in range(len(traced.graph.outputs))]),
        states=states,
        errors={i: (c.exception, c.message) for i, c in enumerate(program.checks, 1)},
        has_learning_rate=bool(_learning_rates(traced)),
    )
