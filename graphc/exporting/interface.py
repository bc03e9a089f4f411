"""What an exported library is: its buffers by name, dtype and shape. The JSON beside a library."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from graphc.ir.dims import parse_dim, substitute, symbols
from graphc.ir.errors import LoadError
from graphc.ir.records import dataclass
from graphc.ir.types import DTYPES, TensorType

__all__ = ["BufferInfo", "DimInfo", "Interface", "read_interface"]

FORMAT = 1
_LARGEST = 64 << 20


@dataclass(frozen=True)
class BufferInfo:
    """One buffer: row-major, contiguous, aligned to 64 bytes.

    `offset` is that of a state in its block; `written` says that a run gives a state a new value.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    """Sizes; text is an expression in the library's named sizes."""
    offset: int = 0
    role: str = ""
    written: bool = False

    @property
    def type(self) -> TensorType:
        """dtype and shape as the IR's type."""
        return TensorType(
            DTYPES[self.dtype], tuple(parse_dim(d) if isinstance(d, str) else d for d in self.shape)
        )

    def at(self, sizes: Mapping[str, int]) -> BufferInfo:
        """The buffer with numbers in place of named sizes."""
        if self.type.is_static:
            return self
        shape = []
        for d in self.type.shape:
            found = substitute(d, {s: sizes[s.name] for s in symbols(d)})
            assert isinstance(found, int), f"{d} has no value"
            shape.append(found)
        return replace(self, shape=tuple(shape))


@dataclass(frozen=True)
class DimInfo:
    """A named size that callers pass, with inclusive bounds; `max` None is unbounded."""

    name: str
    min: int
    max: int | None


@dataclass(frozen=True)
class Interface:
    """Name, target and buffers of a library."""

    name: str
    target: str
    abi_version: int
    state_bytes: int
    workspace_bytes: int
    inputs: tuple[BufferInfo, ...]
    outputs: tuple[BufferInfo, ...]
    states: tuple[BufferInfo, ...]
    errors: dict[int, tuple[str, str]]
    """Exception name and message of each positive error code."""
    has_learning_rate: bool = False
    dims: tuple[DimInfo, ...] = ()
    """Named sizes, in the order in which `run` takes them."""

    def to_json(self) -> str:
        """The text that `read_interface` reads."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    @property
    def fingerprint(self) -> str:
        """A digest of everything here; the library holds it, so that neither is used without the other."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


def read_interface(path: Path) -> Interface:
    """The interface in a JSON file. Raises LoadError where it is missing, damaged or foreign."""
    try:
        if path.stat().st_size > _LARGEST:
            raise LoadError("too large for a library's interface")
        return _parse(json.loads(path.read_text(encoding="utf-8")))
    except LoadError as error:
        raise LoadError(f"{path}: {error}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LoadError(
            f"{path}: not a graphc library interface ({error}); it is written beside the library by export_library"
        ) from None


def _parse(data: dict[str, Any]) -> Interface:
    if data["format"] != FORMAT:
        raise LoadError(
            f"interface format {data['format']}: this version reads format {FORMAT}; export again"
        )
    return Interface(
        name=str(data["name"]),
        target=str(data["target"]),
        abi_version=int(data["abi_version"]),
        state_bytes=int(data["state_bytes"]),
        workspace_bytes=int(data["workspace_bytes"]),
        inputs=_buffers(data["inputs"]),
        outputs=_buffers(data["outputs"]),
        states=_buffers(data["states"]),
        errors={int(code): (str(kind), str(text)) for code, (kind, text) in data["errors"].items()},
        has_learning_rate=bool(data["has_learning_rate"]),
        dims=tuple(_dim(row) for row in data.get("dims", ())),
    )


def _dim(row: Any) -> DimInfo:
    most = row["max"]
    return DimInfo(str(row["name"]), int(row["min"]), None if most is None else int(most))


def _buffers(rows: Any) -> tuple[BufferInfo, ...]:
    found = []
    for row in rows:
        shape = tuple(d if isinstance(d, str) else int(d) for d in row["shape"])
        if row["dtype"] not in DTYPES or any(isinstance(d, int) and d < 0 for d in shape):
            raise LoadError(f"buffer {row['name']!r} has dtype {row['dtype']!r} and shape {list(shape)}")
        name, role, offset = str(row["name"]), str(row["role"]), int(row["offset"])
        found.append(BufferInfo(name, row["dtype"], shape, offset, role, bool(row["written"])))
        found[-1].type  # noqa: B018 - sizes that are no expressions raise here
    return tuple(found)
