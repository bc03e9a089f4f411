"""Compiles one emitter into a native loop over arrays, and reads the symbols of object files.

`compile_unary` and the like return callables on NumPy arrays whose length is a multiple of
the vector width. Only targets that this machine executes can be run (`runnable`); every
target can be compiled to an object.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from graphc.backends.llvm.text import ModuleText, Val, vector
from graphc.ir.target import TARGETS, Target
from tests.backends.math.reference import Array

__all__ = [
    "Kernel",
    "add_loop",
    "assembly",
    "compile_kernel",
    "load_function",
    "module_text",
    "object_code",
    "runnable",
    "undefined_symbols",
]

llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()

Emitter = Callable[..., Val]

DTYPES: dict[str, Any] = {
    "float": np.float32, "double": np.float64, "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
}  # fmt: skip


def runnable() -> list[str]:
    """Names of the targets whose instructions this machine executes, simplest first."""
    features = llvm.get_host_cpu_features()
    names = []
    for target in TARGETS.values():
        needed = [f[1:] for f in target.features.split(",")]
        if target.triple.startswith("x86_64") and all(features.get(f, False) for f in needed):
            names.append(target.name)
    return names


def add_loop(
    module: ModuleText, name: str, emit: Emitter, types: Sequence[str], result: str, width: int
) -> None:
    """Adds `name(inputs…, output, count)`, one `emit` for every `width` elements."""
    names = [f"x{i}" for i in range(len(types))]
    parameters = [("ptr", n) for n in [*names, "out"]] + [("i64", "count")]
    b = module.function(name, "void", parameters)
    *inputs, out, count = b.params

    def body(index: Val, carried: tuple[Val, ...]) -> tuple[Val, ...]:
        loaded = [b.load(vector(t, width), b.gep(p, index, t), 1) for t, p in zip(types, inputs, strict=True)]
        b.store(emit(b, *loaded), b.gep(out, index, result), 1)
        return carried

    b.loop(0, count, width, [], body)
    b.ret()


def module_text(emit: Emitter, target: Target, types: Sequence[str], result: str, width: int) -> str:
    """LLVM text of a module whose `run` is `add_loop`'s function."""
    module = ModuleText(target)
    add_loop(module, "run", emit, types, result, width)
    return str(module)


def _machine(target: Target) -> Any:
    return llvm.Target.from_triple(target.triple).create_target_machine(
        cpu=target.cpu, features=target.features, opt=1, reloc="pic", codemodel="small"
    )


def _optimised(text: str, target: Target) -> Any:
    module = llvm.parse_assembly(text)
    module.verify()
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    passes = llvm.create_pass_builder(_machine(target), options)
    passes.getModulePassManager().run(module, passes)
    return module


def object_code(text: str, target: Target) -> bytes:
    """The ELF object of a module's text."""
    code: bytes = _machine(target).emit_object(_optimised(text, target))
    return code


def assembly(text: str, target: Target) -> str:
    """The assembly of a module's text."""
    code: str = _machine(target).emit_assembly(_optimised(text, target))
    return code


def undefined_symbols(code: bytes) -> set[str]:
    """Names of the undefined symbols of a 64-bit little-endian ELF object."""
    header = struct.unpack_from("<16sHHIQQQIHHHHHH", code)
    assert header[0][:6] == b"\x7fELF\x02\x01"
    sections = [
        struct.unpack_from("<IIQQQQIIQQ", code, header[6] + i * header[11]) for i in range(header[12])
    ]
    names = set()
    for section in sections:
        if section[1] != 2:  # SHT_SYMTAB
            continue
        strings = sections[section[6]][4]
        for at in range(section[4] + 24, section[4] + section[5], 24):
            name, _, _, index, _, _ = struct.unpack_from("<IBBHQQ", code, at)
            if index == 0:
                names.add(code[strings + name : code.index(b"\0", strings + name)].decode())
    return names


def load_function(text: str, target: Target, name: str) -> tuple[Any, int]:
    """The execution engine, to be kept alive, and the address of one of the module's functions."""
    engine = llvm.create_mcjit_compiler(_optimised(text, target), _machine(target))
    engine.finalize_object()
    return engine, engine.get_function_address(name)


@dataclass
class Kernel:
    """A compiled `run` and what keeps it alive."""

    engine: Any
    function: Callable[..., None]
    result: Any

    def __call__(self, *arrays: Array) -> Array:
        """Runs over contiguous arrays of one length, a multiple of the width."""
        out: Array = np.empty(arrays[0].shape, self.result)
        assert all(a.flags.c_contiguous for a in arrays)
        self.function(*(a.ctypes.data for a in (*arrays, out)), out.size)
        return out


def compile_kernel(emit: Emitter, target: Target, types: Sequence[str], result: str, width: int) -> Kernel:
    """A callable that applies `emit` to arrays of the element `types`."""
    engine, address = load_function(module_text(emit, target, types, result, width), target, "run")
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (len(types) + 1), ctypes.c_int64)
    return Kernel(engine, signature(address), DTYPES[result])
