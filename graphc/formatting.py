"""How tensors print: PyTorch's layout of numbers, brackets, summaries and suffixes."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from graphc.core import is_tracing
from graphc.functions.promotion import get_default_dtype
from graphc.ir.errors import TraceError
from graphc.ir.records import dataclass
from graphc.ir.types import bool_, int64

if TYPE_CHECKING:
    from graphc.tensor_class import Tensor

__all__ = ["get_printoptions", "set_printoptions", "tensor_text"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Options:
    precision: int = 4
    threshold: float = 1000
    edgeitems: int = 3
    linewidth: int = 80
    sci_mode: bool | None = None


_PROFILES = {
    "default": _Options(),
    "short": _Options(precision=2, edgeitems=2),
    "full": _Options(threshold=math.inf),
}
_options = [_Options()]


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Digits after the point, elements before summarising, elements kept at the edges, line width."""
    new = _PROFILES[profile] if profile is not None else _options[0]
    given = {"precision": precision, "threshold": threshold, "edgeitems": edgeitems, "linewidth": linewidth}
    _options[0] = replace(new, **{k: v for k, v in given.items() if v is not None}, sci_mode=sci_mode)  # type: ignore[arg-type]


def get_printoptions() -> dict[str, Any]:
    """The options as a dict."""
    return dict(vars(_options[0]))


class _NumberFormat:
    """One format for all numbers shown, chosen so that they line up."""

    def __init__(self, values: Array, options: _Options) -> None:
        self.floating = values.dtype.kind == "f"
        self.precision = options.precision
        self.scientific = False
        self.integral = True
        self.width = 1
        if not self.floating:
            self.width = max([1, *(len(str(v)) for v in values.reshape(-1).tolist())])
            return
        kept = values[np.isfinite(values) & (values != 0)].astype(np.float64)
        if kept.size == 0:
            return
        low, high = float(np.abs(kept).min()), float(np.abs(kept).max())
        self.integral = bool((kept == np.ceil(kept)).all())
        wide = high / low > 1000.0 or high > 1.0e8 or (not self.integral and low < 1.0e-4)
        self.scientific = wide if options.sci_mode is None else options.sci_mode
        self.width = max([1, *(len(self._bare(v)) for v in kept.tolist())])
        if self.integral and not self.scientific:
            self.width += 1

    def _bare(self, value: float) -> str:
        if self.scientific:
            return f"{value:.{self.precision}e}"
        return f"{value:.0f}" if self.integral else f"{value:.{self.precision}f}"

    def __call__(self, value: Any) -> str:
        if not self.floating:
            text = str(value)
        elif self.scientific:
            text = f"{value:{self.width}.{self.precision}e}"
        elif self.integral:
            text = f"{value:.0f}" + ("" if not math.isfinite(value) else ".")
        else:
            text = f"{value:.{self.precision}f}"
        return text.rjust(self.width)


def _edges(values: Array, n: int) -> Array:
    """The elements that a summary shows."""
    for axis in range(values.ndim):
        if values.shape[axis] > 2 * n:
            values = np.concatenate(
                [
                    values.take(range(n), axis),
                    values.take(range(values.shape[axis] - n, values.shape[axis]), axis),
                ],
                axis,
            )
    return values


def _numbers(values: Array, indent: int, summarise: bool, number: _NumberFormat, options: _Options) -> str:
    if values.ndim == 0:
        return number(values.item())
    n = options.edgeitems
    cut = summarise and values.shape[0] > 2 * n
    if values.ndim == 1:
        shown = [*values[:n].tolist(), None, *values[-n:].tolist()] if cut else values.tolist()
        texts = [" ..." if v is None else number(v) for v in shown]
        per_line = max(1, (options.linewidth - indent) // (number.width + 2))
        lines = [", ".join(texts[i : i + per_line]) for i in range(0, len(texts), per_line)]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    rows: list[Any] = [*values[:n], None, *values[-n:]] if cut else list(values)
    parts = ["..." if r is None else _numbers(r, indent + 1, summarise, number, options) for r in rows]
    return "[" + ("," + "\n" * (values.ndim - 1) + " " * (indent + 1)).join(parts) + "]"


def _body(x: Tensor, indent: int) -> tuple[str, bool]:
    """The numbers, and whether they can be read at all (not while tracing)."""
    try:
        values = x._values()
    except TraceError:
        return "...", False
    if values.dtype.itemsize == 2 and values.dtype.kind not in "iu":
        values = values.astype(np.float32)
    options = _options[0]
    summarise = values.size > options.threshold
    number = _NumberFormat(_edges(values, options.edgeitems) if summarise else values, options)
    return _numbers(values, indent, summarise, number, options), True


def tensor_text(x: Tensor, prefix: str = "tensor(") -> str:
    """`repr` of a tensor. Evaluates it; inside a traced function it shows shape and dtype only."""
    indent = len(prefix)
    dtype = x.tensor_type.dtype
    suffixes = []
    empty = x.tensor_type.is_static and x.tensor_type.numel == 0
    if empty and not is_tracing():
        body = "[]"
        if x.tensor_type.rank != 1:
            suffixes.append(f"size={tuple(x.tensor_type.shape)}")
        ordinary = dtype is get_default_dtype()
    else:
        body, known = _body(x, indent)
        if not known:
            suffixes.append(f"size=({', '.join(map(str, x.tensor_type.shape))})")
        ordinary = dtype in (get_default_dtype(), int64, bool_)
    if not ordinary:
        suffixes.append(f"dtype={dtype!r}")
    if x.requires_grad:
        suffixes.append("requires_grad=True" if x.is_leaf else f"grad_fn={x.grad_fn!r}")
    return _joined(prefix + body, suffixes, indent)


def _joined(text: str, suffixes: list[str], indent: int) -> str:
    last = len(text) - text.rfind("\n") + 1
    for suffix in suffixes:
        if last + len(suffix) + 2 > _options[0].linewidth:
            text += ",\n" + " " * indent + suffix
            last = indent + len(suffix)
        else:
            text += ", " + suffix
            last += len(suffix) + 2
    return text + ")"
