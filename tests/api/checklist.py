"""Prints one row for every Module, function, loss and optimiser compared with PyTorch.

Run with `python -m tests.api.checklist`; ends with 1 where a row differs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from tests.api.parity import check_function, check_module, check_optimiser
from tests.api.rows import FUNCTIONS, LOSSES, MODULES, OPTIMISERS

SECTIONS: list[tuple[str, str, list[Any], Callable[[Any], None]]] = [
    ("function", "outputs, gradients", FUNCTIONS, check_function),
    ("loss", "outputs, gradients", LOSSES, check_function),
    ("module", "outputs, gradients, buffers, text, keys, ten steps", MODULES, check_module),
    ("optimiser", "ten steps, state, state dict", OPTIMISERS, check_optimiser),
]


def main() -> int:
    """Runs every row; returns the number of those that differ, at most 1 as an exit status."""
    failed = 0
    for kind, what, rows, check in SECTIONS:
        for r in rows:
            try:
                check(r)
                verdict = "as PyTorch"
            except Exception as error:
                failed += 1
                verdict = f"DIFFERS: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            print(f"{kind:10} {r.name:40} {what:52} {verdict}", flush=True)
    total = sum(len(rows) for _, _, rows, _ in SECTIONS)
    print(f"{total - failed} of {total} rows as PyTorch")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
