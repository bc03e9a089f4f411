"""Results kept by a kernel's text.

Kernels are compared by value, where 0.0 equals -0.0, and their hash walks all of them; the text tells
every difference and is cheaper. A schedule is no part of it: what is asked here does not depend on one.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

from graphc.ir.kernel import Kernel
from graphc.ir.records import dataclass

__all__ = ["by_text"]

Result = TypeVar("Result")

_MOST = 512


@dataclass(frozen=True)
class _Key:
    text: str
    kernel: Kernel = dataclasses.field(compare=False)


def by_text(function: Callable[..., Result]) -> Callable[..., Result]:
    """`function(kernel, …)` computed once for each kernel, apart from its schedule, and further arguments."""

    @functools.lru_cache(maxsize=_MOST)
    def kept(key: _Key, *rest: Any) -> Result:
        return function(key.kernel, *rest)

    @functools.wraps(function)
    def find(kernel: Kernel, *rest: Any) -> Result:
        plain = kernel if kernel.schedule is None else dataclasses.replace(kernel, schedule=None)
        return kept(_Key(str(plain), plain), *rest)

    return find
