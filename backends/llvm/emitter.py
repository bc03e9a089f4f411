"""LLVM text to object code or assembly: the part that needs llvmlite's binding and nothing else.

Imported in process, and run as a script by compile workers, which read requests from standard
input and write answers to standard output. So a worker starts without NumPy and without graphc.
"""

from __future__ import annotations

import functools
import signal
import struct
import sys
from typing import BinaryIO

import llvmlite.binding as llvm

__all__ = ["ANSWER", "REQUEST", "Rejected", "emit", "machine"]

REQUEST = struct.Struct("<IIII")
"""Lengths of triple, processor, features and text, which follow."""
ANSWER = struct.Struct("<BI")
"""0 for an object, 1 for an error message; its length; the bytes follow."""

_SPEED_LEVEL = 1


class Rejected(Exception):
    """LLVM does not accept the text, or cannot generate code for it."""


@functools.cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.initialize_native_asmparser()


def machine(triple: str, cpu: str, features: str, *, jit: bool = False) -> llvm.TargetMachine:
    """A new target machine; one handed to an execution engine is owned by it, so never share them."""
    _initialize()
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=features, opt=2, reloc="pic", codemodel="small", jit=jit
    )


_shared_machine = functools.lru_cache(maxsize=8)(machine)
"""The machine that emits for a target; never given to an execution engine."""


def emit(text: str, triple: str, cpu: str, features: str, *, assembly: bool = False) -> bytes:
    """Object code of a module, or its assembly. Raises `Rejected`."""
    emitter = _shared_machine(triple, cpu, features)
    try:
        module = llvm.parse_assembly(text, llvm.create_context())
        module.verify()
    except RuntimeError as error:
        raise Rejected(f"LLVM rejects generated code: {error}") from None
    _optimise(module, emitter, len(text))
    try:
        if assembly:
            return str(emitter.emit_assembly(module)).encode()
        return bytes(emitter.emit_object(module))
    except RuntimeError as error:
        raise Rejected(f"LLVM cannot generate code: {error}") from None


_LONG = 200_000
"""Characters of a text whose optimisation would take longer than its code is worth."""


def _optimise(module: llvm.ModuleRef, emitter: llvm.TargetMachine, length: int) -> None:
    """Runs LLVM's passes on a module whose text has `length` characters.

    A module of one function, as every kernel is, has nothing to inline or to propagate between
    functions: the passes over functions alone give code as fast in two thirds of the time. Long texts are
    loop nests in many variants, few of which run often: they get the passes that matter most.
    """
    options = llvm.create_pipeline_tuning_options(speed_level=_SPEED_LEVEL)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_unrolling = False
    options.loop_interleaving = False
    builder = llvm.create_pass_builder(emitter, options)
    functions = [f for f in module.functions if not f.is_declaration]
    if len(functions) != 1:
        builder.getModulePassManager().run(module, builder)
        return
    if length < _LONG:
        builder.getFunctionPassManager().run(functions[0], builder)
        return
    passes = llvm.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.add_loop_rotate_pass()
    passes.add_instruction_combine_pass()
    passes.add_new_gvn_pass()
    passes.add_simplify_cfg_pass()
    passes.add_dead_code_elimination_pass()
    passes.run(module, builder)


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answers requests until their end."""
    while head := requests.read(REQUEST.size):
        triple, cpu, features, text = (requests.read(n).decode() for n in REQUEST.unpack(head))
        try:
            status, body = 0, emit(text, triple, cpu, features)
        except Rejected as error:
            status, body = 1, str(error).encode()
        answers.write(ANSWER.pack(status, len(body)))
        answers.write(body)
        answers.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for the process that waits
    serve(sys.stdin.buffer, sys.stdout.buffer)
