"""LLVM text to object code, for the machine at hand or any named target.

Invariants: the object depends on the text, the target and llvmlite's version alone; loop and
SLP vectorisers and the unroller are off, no operation is contracted or reassociated. Code is
position independent in the small code model, so the same object serves the process and a
shared library.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from graphc.backends.llvm import emitter
from graphc.ir.errors import CompileError
from graphc.ir.target import TARGETS, Target

__all__ = [
    "COMPILER_VERSION",
    "assembly_text",
    "compile_soon",
    "compile_text",
    "host_target",
    "machine",
    "missing_here",
    "resolve_target",
]

COMPILER_VERSION = f"llvmlite {llvmlite.__version__} LLVM {'.'.join(map(str, llvm.llvm_version_info))}"
"""What an object depends on besides its text and target: part of every cache key."""


def machine(target: Target, *, jit: bool = False) -> llvm.TargetMachine:
    """A new target machine; one handed to an execution engine is owned by it, so never share them."""
    return emitter.machine(target.triple, target.cpu, target.features, jit=jit)


def _emit(text: str, target: Target, *, assembly: bool = False, level: int = 2) -> bytes:
    try:
        return emitter.emit(text, target.triple, target.cpu, target.features, assembly=assembly, level=level)
    except emitter.Rejected as error:
        raise CompileError(f"{error} (target {target.name})") from None


def compile_text(text: str, target: Target) -> bytes:
    """Object code of an LLVM module. Raises `CompileError` where LLVM does not accept the text."""
    return _emit(text, target)


def compile_soon(text: str, target: Target) -> bytes:
    """Object code of a module that is wanted at once and seldom run, in a tenth of the time. Raises `CompileError`."""
    return _emit(text, target, level=0)


def assembly_text(text: str, target: Target) -> str:
    """Assembly of the very code that `compile_text` makes."""
    return _emit(text, target, assembly=True).decode()


def _cache_size(index: int, default: int) -> int:
    """Bytes of the data cache of level `index` as Linux states it."""
    base = Path("/sys/devices/system/cpu/cpu0/cache")
    for entry in sorted(base.glob("index*")):
        try:
            level = int((entry / "level").read_text())
            kind = (entry / "type").read_text().strip()
            size = (entry / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        if level == index and kind != "Instruction" and size[-1:] == "K" and size[:-1].isdigit():
            return int(size[:-1]) * 1024
    return default


@functools.cache
def host_target() -> Target:
    """The machine at hand: instruction set, vector width and cache sizes.

    Its name is `host`; the widest vectors whose masked forms the machine has are used.
    """
    features = llvm.get_host_cpu_features()
    triple = llvm.get_process_triple()
    arch = triple.partition("-")[0]
    sizes = (_cache_size(1, 32 << 10), _cache_size(2, 512 << 10), _cache_size(3, 16 << 20))
    if arch in ("aarch64", "arm64"):
        base = TARGETS["aarch64"]
    elif all(features.get(f) for f in ("avx512f", "avx512bw", "avx512dq", "avx512vl", "fma", "f16c")):
        base = TARGETS["x86-64-v4"]
    elif all(features.get(f) for f in ("avx2", "fma", "f16c", "bmi2")):
        base = TARGETS["x86-64-v3"]
    elif arch == "x86_64":
        base = TARGETS["x86-64"]
    else:
        raise CompileError(f"graphc does not generate code for {triple} yet; expected x86-64 or AArch64")
    return Target(
        name="host",
        triple=triple,
        cpu=llvm.get_host_cpu_name(),
        features=features.flatten(),
        vector_bytes=base.vector_bytes,
        vector_registers=base.vector_registers,
        has_fma=base.has_fma,
        has_masks=base.has_masks,
        has_f16=base.has_f16,
        has_rounding=base.has_rounding or bool(features.get("sse4.1")),
        l1_bytes=sizes[0],
        l2_bytes=sizes[1],
        l3_bytes=sizes[2],
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
    )


def missing_here(target: Target) -> list[str]:
    """What this machine lacks to run code for `target`: its architecture or instruction sets."""
    arch = target.triple.partition("-")[0]
    if arch != host_target().triple.partition("-")[0].replace("arm64", "aarch64"):
        return [arch]
    present = llvm.get_host_cpu_features()
    wanted = [f.removeprefix("+") for f in target.features.split(",") if f.startswith("+")]
    return [f for f in wanted if not present.get(f)]


def resolve_target(target: str | Target) -> Target:
    """A `Target` from its name (`"host"`, `"x86-64-v3"`, …). Raises ValueError for an unknown name."""
    if isinstance(target, Target):
        return target
    if target == "host":
        return host_target()
    try:
        return TARGETS[target]
    except KeyError:
        raise ValueError(f"unknown target {target!r}; expected host, {', '.join(TARGETS)}") from None
