"""From scheduled kernels to linked code: one module and one object per distinct kernel.

A kernel's symbol is a hash of its canonical text and the target, so equal kernels are compiled
once, in memory and on disk. The contraction engine takes the kernels that it scheduled; all
others get the general loops.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

from graphc.backends.llvm import contraction
from graphc.backends.llvm import kernel as loops
from graphc.backends.llvm.kernels import (
    CompiledKernels,
    link_kernels,
    load_objects,
    lock,
    missing_kernels,
    store_objects,
)
from graphc.backends.llvm.text import ModuleText
from graphc.backends.llvm.workers import compile_many
from graphc.ir.kernel import Kernel, Schedule
from graphc.ir.program import Program
from graphc.ir.target import Target

__all__ = [
    "CompiledKernels",
    "LlvmBackend",
    "compile_kernels",
    "kernel_calls",
    "kernel_modules",
    "kernel_objects",
    "kernel_symbol",
]


class LlvmBackend:
    """What passes may ask of this backend; see `graphc.ir.backend.BackendInfo`."""

    def contraction_schedule(self, kernel: Kernel, target: Target, vector: bool) -> Schedule | None:
        return contraction.contraction_schedule(kernel, target, vector)

    def scratch_bytes(self, kernel: Kernel, target: Target) -> int:
        if kernel.schedule is None or kernel.schedule.engine == "loops":
            return loops.scratch_bytes(kernel, target)
        return contraction.scratch_bytes(kernel, target, kernel.schedule.parts)


def kernel_symbol(kernel: Kernel, target: Target) -> str:
    """`k_<hash>`: the same for equal kernels on one target."""
    return "k_" + hashlib.sha256(f"{target}\n{kernel}".encode()).hexdigest()[:24]


def _module(kernel: Kernel, symbol: str, target: Target) -> str:
    module = ModuleText(target)
    if kernel.schedule is not None and kernel.schedule.engine != "loops":
        contraction.emit_contraction(kernel, module, symbol, target)
    else:
        loops.emit_kernel(kernel, module, symbol, target)
    return str(module)


def _distinct(program: Program, target: Target) -> tuple[list[str], dict[str, Kernel]]:
    """Symbol of each call in program order, and the distinct kernels."""
    symbols: list[str] = []
    kernels: dict[str, Kernel] = {}
    names: dict[tuple[Kernel, tuple[float, ...]], str] = {}
    for phase in program.phases:
        for call in phase.calls:
            key = call.kernel, _signs_of_zeros(call.kernel)
            name = names.get(key)
            if name is None:
                name = names[key] = kernel_symbol(call.kernel, target)
            kernels[name] = call.kernel
            symbols.append(name)
    return symbols, kernels


def _signs_of_zeros(kernel: Kernel) -> tuple[float, ...]:
    """What tells kernels apart that are equal because 0.0 == -0.0."""
    return tuple(
        math.copysign(1.0, i.value)
        for i in kernel.instructions()
        if i.opcode == "const" and i.value == 0 and isinstance(i.value, float)
    )


def kernel_calls(program: Program, target: Target) -> list[str]:
    """Symbol of each kernel call in program order."""
    return _distinct(program, target)[0]


def kernel_modules(program: Program, target: Target) -> dict[str, str]:
    """LLVM text of every distinct kernel of a program, by symbol."""
    _, kernels = _distinct(program, target)
    return {name: _module(kernel, name, target) for name, kernel in kernels.items()}


def kernel_objects(program: Program, target: Target) -> dict[str, bytes]:
    """Object code of every distinct kernel, by symbol, from the disk cache where it is there."""
    return _objects(_distinct(program, target)[1], target)[0]


def _objects(kernels: Mapping[str, Kernel], target: Target) -> tuple[dict[str, bytes], int]:
    """Objects by symbol, and how many of them had to be compiled: they were not on disk."""
    found = load_objects(kernels, target)
    missing = [name for name in kernels if name not in found]
    made = compile_many([_module(kernels[name], name, target) for name in missing], target)
    compiled = dict(zip(missing, made, strict=True))
    store_objects(compiled, target)
    found |= compiled
    return {name: found[name] for name in kernels}, len(missing)


def compile_kernels(program: Program, target: Target) -> CompiledKernels:
    """The code of a program's kernels; those that this process has linked before are not made again."""
    symbols, kernels = _distinct(program, target)
    with lock:
        missing = {name: kernels[name] for name in missing_kernels(kernels)}
        objects, compiled = _objects(missing, target)
        return link_kernels(symbols, objects, from_disk=bool(missing) and not compiled)
