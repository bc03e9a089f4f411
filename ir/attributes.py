"""Attributes of ops: immutable, hashable Python values with one text form that round-trips.

Kinds: bool, int, float, str, None, `Dim`, `DType`, `TensorType`, `Dense` (an array), and tuples
of these. Nothing is ever evaluated to read them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from graphc.ir.dims import Expr, Symbol, parse_dim
from graphc.ir.types import DTYPES, DType, TensorType

__all__ = ["Dense", "attribute_text", "parse_attribute", "parse_attributes"]

Known = Mapping[str, Symbol] | None


class Dense:
    """An immutable array attribute, compared and hashed by dtype, shape and bytes."""

    __slots__ = ("_hash", "array")

    def __init__(self, array: Any) -> None:
        # `ascontiguousarray` would turn rank 0 into rank 1, so copy in C order instead.
        self.array = np.array(array, order="C", copy=True)
        self.array.setflags(write=False)
        self._hash = hash((self.array.dtype.str, self.array.shape, self.array.tobytes()))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Dense)
            and self._hash == other._hash
            and self.array.dtype == other.array.dtype
            and self.array.shape == other.array.shape
            and self.array.tobytes() == other.array.tobytes()
        )

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return attribute_text(self)


def attribute_text(value: Any) -> str:
    """The text of an attribute. Raises TypeError for a value that is no attribute."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int() | Expr() | TensorType():
            return str(value)
        case float():
            return _float_text(value)
        case str():
            return json.dumps(value)
        case DType():
            return value.name
        case tuple():
            return f"[{', '.join(attribute_text(v) for v in value)}]"
        case Dense():
            return _dense_text(value.array)
    raise TypeError(f"not an attribute: {value!r} of {type(value).__name__}")


def _float_text(value: float) -> str:
    text = repr(value)
    return (
        text if any(c in text for c in ".einf") and text != "inf" else {"inf": "inf"}.get(text, text + ".0")
    )


def _dense_text(array: Any) -> str:
    name = next(d.name for d in DTYPES.values() if d.numpy == array.dtype)
    shape = ", ".join(map(str, array.shape))
    data = array.tobytes()
    unit = data[: array.dtype.itemsize]
    if array.size > 1 and data == unit * array.size:
        return f'dense({name}[{shape}], splat "{unit.hex()}")'
    return f'dense({name}[{shape}], "{data.hex()}")'


_SCANNER = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")
      |(?P<dense>dense\()
      |(?P<type>(?:bool|u8|i8|i16|i32|i64|f16|bf16|f32|f64)\[[^\]]*\])
      |(?P<float>[-+]?(?:\d+\.\d*(?:e[-+]?\d+)?|\d+e[-+]?\d+|inf\b|nan\b))
      |(?P<open>\[)|(?P<close>\])|(?P<comma>,)
      |(?P<dim>[-+]?[\w.%(][\w.%+\-*/ ()]*(?:\([^\]]*?\))?[\w.%+\-*/ ()]*))""",
    re.VERBOSE,
)
_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None, **DTYPES}


def parse_attribute(text: str) -> Any:
    """The attribute that `attribute_text` spelt. Raises ValueError."""
    value, at = _parse(text, 0)
    if text[at:].strip():
        raise ValueError(f"unexpected {text[at:]!r} after attribute {text[:at]!r}")
    return value


def parse_attributes(text: str, known: Known = None) -> tuple[dict[str, Any], int]:
    """Attributes spelt `{name=value, …}` at the start of `text`, and where they end.

    `known` gives symbols of dims by name. Raises ValueError.
    """
    attributes: dict[str, Any] = {}
    at = 1
    while True:
        match = re.compile(r"\s*(?:(\w+)\s*=|(\}))").match(text, at)
        if match is None:
            raise ValueError(f"expected name=value or }} in attributes at {text[at : at + 30]!r}")
        at = match.end()
        if match.group(2):
            return attributes, at
        attributes[match.group(1)], at = _parse(text, at, known)
        comma = re.compile(r"\s*,").match(text, at)
        if comma:
            at = comma.end()


def _parse(text: str, at: int, known: Known = None) -> tuple[Any, int]:
    match = _SCANNER.match(text, at)
    if match is None:
        raise ValueError(f"expected an attribute at {text[at : at + 30]!r}")
    body = match.group().strip()
    match match.lastgroup:
        case "string":
            return json.loads(body), match.end()
        case "type":
            return TensorType.parse(body, known), match.end()
        case "float":
            return float(body), match.end()
        case "dense":
            return _parse_dense(text, match.end())
        case "open":
            return _parse_list(text, match.end(), known)
        case "dim":
            return _parse_dim_at(
                text, match.start() + len(match.group()) - len(match.group().lstrip()), known
            )
    raise ValueError(f"unexpected {body!r} in attributes")


def _parse_dim_at(text: str, at: int, known: Known) -> tuple[Any, int]:
    """A word or a dim: reads up to a comma or closing bracket outside parentheses."""
    depth, end = 0, at
    while end < len(text) and not (depth == 0 and text[end] in ",]})"):
        depth += (text[end] == "(") - (text[end] == ")")
        end += 1
    body = text[at:end].strip()
    return (_WORDS[body] if body in _WORDS else parse_dim(body, known)), end


def _parse_list(text: str, at: int, known: Known) -> tuple[tuple[Any, ...], int]:
    items: list[Any] = []
    while True:
        match = re.compile(r"\s*(\]|,)?").match(text, at)
        assert match is not None
        if match.group(1) == "]":
            return tuple(items), match.end()
        value, at = _parse(text, match.end(), known)
        items.append(value)


_DENSE = re.compile(r'\s*(\w+\[[^\]]*\])\s*,\s*(splat\s+)?"([0-9a-f]*)"\s*\)')


def _parse_dense(text: str, at: int) -> tuple[Dense, int]:
    match = _DENSE.match(text, at)
    if match is None:
        raise ValueError(f"expected dense(type, bytes) at {text[at : at + 30]!r}")
    type_ = TensorType.parse(match.group(1))
    data = bytes.fromhex(match.group(3)) * (type_.numel if match.group(2) else 1)
    return Dense(np.frombuffer(data, type_.dtype.numpy).reshape(type_.sizes)), match.end()
