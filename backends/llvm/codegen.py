"""From scheduled kernels to linked code: one module and one object per distinct kernel.

A kernel's symbol is a hash of its canonical text and the target, so equal kernels are compiled
once, in memory and on disk. The contraction engine takes the kernels that it scheduled; all
others get the general loops.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

from graphc.backends.llvm import chain, contraction
from graphc.backends.llvm import kernel as loops
from graphc.backends.llvm.compile import compile_text
from graphc.backends.llvm.kernels import (
    CompiledKernels,
    link_kernels,
    load_objects,
    lock,
    missing_kernels,
    store_objects,
)
from graphc.backends.llvm.text import ModuleText
from graphc.backends.llvm.workers import (
    CompileWorkers,
    Request,
    compile_many,
    running_workers,
    start_workers,
    workers_pay,
)
from graphc.ir.dims import Symbol
from graphc.ir.kernel import Kernel, Schedule
from graphc.ir.program import Program
from graphc.ir.target import Target

__all__ = [
    "CompiledKernels",
    "KernelCompiler",
    "LlvmBackend",
    "compile_kernels",
    "kernel_calls",
    "kernel_modules",
    "kernel_objects",
    "kernel_symbol",
    "module_text",
]


class LlvmBackend:
    """What passes may ask of this backend; see `graphc.ir.backend.BackendInfo`."""

    def contraction_schedule(self, kernel: Kernel, target: Target, vector: bool) -> Schedule | None:
        return contraction.contraction_schedule(kernel, target, vector)

    def contraction_cycles(self, kernel: Kernel, target: Target, vector: bool) -> float | None:
        return contraction.cycles(kernel, target, vector)

    def chain_schedule(self, kernel: Kernel, target: Target) -> Schedule | None:
        return chain.chain_schedule(kernel, target)

    def kept_operand(self, kernel: Kernel, target: Target) -> tuple[int, int] | None:
        return contraction.kept_operand(kernel, target)

    def scratch_bytes(self, kernel: Kernel, target: Target) -> int:
        if kernel.schedule is None or kernel.schedule.engine == "loops":
            return loops.scratch_bytes(kernel, target)
        if kernel.links:
            return chain.scratch_bytes(kernel, target)
        return contraction.scratch_bytes(kernel, target)

    def division(self, kernel: Kernel, target: Target) -> Callable[[Mapping[Symbol, int]], int]:
        return contraction.division(kernel, target)

    def numbers_at(self, kernel: Kernel, sizes: Mapping[Symbol, int]) -> tuple[int, ...]:
        return contraction.numbers_at(kernel, sizes)


def kernel_symbol(kernel: Kernel, target: Target) -> str:
    """`k_<hash>`: the same for equal kernels on one target."""
    return "k_" + hashlib.sha256(f"{target}\n{kernel}".encode()).hexdigest()[:24]


def module_text(kernel: Kernel, symbol: str, target: Target) -> str:
    """LLVM text of a scheduled kernel as the function `symbol`."""
    module = ModuleText(target)
    if kernel.links:
        chain.emit_chain(kernel, module, symbol, target)
    elif kernel.schedule is not None and kernel.schedule.engine != "loops":
        contraction.emit_contraction(kernel, module, symbol, target)
    else:
        loops.emit_kernel(kernel, module, symbol, target)
    return module.finished()


class KernelCompiler:
    """Compiles kernels while a program is still being made: they are added as they become known.

    Each distinct kernel that is neither linked nor on disk becomes text at once; where there is much of
    it, workers compile it meanwhile. `large` says beforehand that there will be much.
    """

    def __init__(self, target: Target, *, large: bool = False) -> None:
        self._target = target
        self._symbols: dict[int, str] = {}
        self._kept: list[Kernel] = []
        """Kernels whose identity is in use."""
        self._found: dict[str, bytes] = {}
        self._texts: dict[str, str] = {}
        self._characters = 0
        self._requests: dict[str, Request] = {}
        self._workers: CompileWorkers | None = running_workers()
        if large and workers_pay(_MUCH):
            self._workers = start_workers()

    def symbol(self, kernel: Kernel) -> str:
        """The symbol of a kernel, whose text is made once for each object."""
        known = self._symbols.get(id(kernel))
        if known is None:
            known = self._symbols[id(kernel)] = kernel_symbol(kernel, self._target)
            self._kept.append(kernel)
        return known

    def add(self, kernel: Kernel) -> None:
        """Sees to it that the kernel's object will be there."""
        symbol = self.symbol(kernel)
        if symbol in self._texts or symbol in self._found or not missing_kernels([symbol]):
            return
        self._found |= load_objects([symbol], self._target)
        if symbol in self._found:
            return
        text = self._texts[symbol] = module_text(kernel, symbol, self._target)
        self._characters += len(text)
        if self._workers is None and workers_pay(self._characters):
            self._workers = start_workers()
        if self._workers is not None:
            for name, waiting in self._texts.items():
                if name not in self._requests:
                    self._requests[name] = self._workers.submit(waiting, self._target)

    def objects(self, kernels: Iterable[Kernel]) -> tuple[dict[str, bytes], int]:
        """Objects of kernels that are not linked, by symbol, and how many of them had to be compiled."""
        # Those with the longest texts first, so that no worker is left with one at the end.
        for kernel in sorted(kernels, key=lambda k: k.schedule is None or k.schedule.engine == "loops"):
            self.add(kernel)
        compiled = {
            name: self._requests[name].result()
            if name in self._requests
            else compile_text(text, self._target)
            for name, text in self._texts.items()
        }
        store_objects(compiled, self._target)
        self._found |= compiled
        self._texts.clear()
        wanted = dict.fromkeys(map(self.symbol, kernels))
        return {name: self._found[name] for name in wanted if name in self._found}, len(compiled)


_MUCH = 1 << 30


def _calls(program: Program) -> list[Kernel]:
    """The kernel of each call in program order."""
    return [call.kernel for phase in program.phases for call in phase.calls]


def kernel_calls(program: Program, target: Target) -> list[str]:
    """Symbol of each kernel call in program order."""
    return list(map(KernelCompiler(target).symbol, _calls(program)))


def kernel_modules(program: Program, target: Target) -> dict[str, str]:
    """LLVM text of every distinct kernel of a program, by symbol."""
    kernels = dict(zip(kernel_calls(program, target), _calls(program), strict=True))
    return {name: module_text(kernel, name, target) for name, kernel in kernels.items()}


def kernel_objects(program: Program, target: Target) -> dict[str, bytes]:
    """Object code of every distinct kernel, by symbol, from the disk cache where it is there."""
    kernels = dict(zip(kernel_calls(program, target), _calls(program), strict=True))
    found = load_objects(kernels, target)
    missing = [name for name in kernels if name not in found]
    made = compile_many([module_text(kernels[name], name, target) for name in missing], target)
    compiled = dict(zip(missing, made, strict=True))
    store_objects(compiled, target)
    found |= compiled
    return {name: found[name] for name in kernels}


def compile_kernels(
    program: Program, target: Target, compiler: KernelCompiler | None = None
) -> CompiledKernels:
    """The code of a program's kernels; those that this process has linked before are not made again.

    `compiler` is one that kernels of the program were added to before.
    """
    compiler = compiler or KernelCompiler(target)
    calls = _calls(program)
    symbols = list(map(compiler.symbol, calls))
    objects, compiled = compiler.objects(calls)
    with lock:
        missing = {name: objects[name] for name in missing_kernels(symbols)}
        return link_kernels(symbols, missing, from_disk=bool(missing) and not compiled)
