"""Text of LLVM functions: names of blocks and of values never meet."""

from __future__ import annotations

import llvmlite.binding as llvm

from graphc.backends.llvm.text import ModuleText, Val
from graphc.ir.target import TARGETS


def test_names_of_blocks_and_values() -> None:
    """Loops whose hint looks like the name of an index: LLVM keeps blocks and values in one space of names."""
    module = ModuleText(TARGETS["x86-64"])
    function = module.function("f", "void", [("ptr", "out")])
    for number in range(40):

        def body(index: Val, carried: tuple[Val, ...]) -> tuple[Val, ...]:
            function.emit(f"store {index}, ptr %out")
            return carried

        function.loop(0, 2, 1, (), body, hint=f"i{3 * ((3 * number + 1) // 4) + 3}")
    function.ret()
    llvm.parse_assembly(str(module), llvm.create_context()).verify()
