"""LLVM text to object code or assembly: the part that needs llvmlite's binding and nothing else.

Imported in process, and run as a script by compile workers, which read requests from standard
input and write answers to standard output. So a worker starts without NumPy and without graphc.
"""

from __future__ import annotations

import functools
import os
import re
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


class Rejected(Exception):
    """LLVM does not accept the text, or cannot generate code for it."""


@functools.cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    llvm.initialize_native_asmparser()


def machine(triple: str, cpu: str, features: str, *, jit: bool = False, level: int = 2) -> llvm.TargetMachine:
    """A new target machine; one handed to an execution engine is owned by it, so never share them."""
    _initialize()
    return llvm.Target.from_triple(triple).create_target_machine(
        cpu=cpu, features=features, opt=level, reloc="pic", codemodel="small", jit=jit
    )


_shared_machine = functools.lru_cache(maxsize=8)(machine)
"""The machine that emits for a target; never given to an execution engine."""


def emit(text: str, triple: str, cpu: str, features: str, *, assembly: bool = False, level: int = 2) -> bytes:
    """Object code of a module, or its assembly. At `level` 0 it is there soonest and runs slowest. Raises `Rejected`."""
    emitter = _shared_machine(triple, cpu, features, level=level)
    try:
        module = llvm.parse_assembly(text, llvm.create_context())
        module.verify()
    except RuntimeError as error:
        raise Rejected(f"LLVM rejects generated code: {error}") from None
    _optimise(module, emitter, text)
    try:
        if assembly:
            return str(emitter.emit_assembly(module)).encode()
        return bytes(emitter.emit_object(module))
    except RuntimeError as error:
        raise Rejected(f"LLVM cannot generate code: {error}") from None


_BIT_LOGIC = re.compile(r" (?:and|or|xor) <\d+ x i1>")


def _optimise(module: llvm.ModuleRef, emitter: llvm.TargetMachine, text: str) -> None:
    """Runs LLVM's passes on a module.

    Texts hold each common expression once, outside the loops in which it does not change, and loops with the
    test at the end, so code generation takes them as they are. Passes are left for what texts do not say: functions
    that stand in their callers, variables on the stack, and conditions of many parts for each lane.
    """
    builder = llvm.create_pass_builder(emitter, llvm.create_pipeline_tuning_options(speed_level=1))
    passes = llvm.create_new_module_pass_manager()
    if "alwaysinline" in text:
        passes.add_always_inliner_pass()
    if "alloca" in text:
        passes.add_sroa_pass()
    if _BIT_LOGIC.search(text):
        passes.add_instruction_combine_pass()
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
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        os._exit(0)  # nobody waits for the answer any more
