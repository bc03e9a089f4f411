"""`save` and `load`: nests of plain values and tensors in a zip of a JSON index and raw arrays.

Nothing in a file is executed, and nothing in it decides how much memory is taken: entries are
stored uncompressed, so that what is read is never larger than the file.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import sys
import tempfile
import zipfile
import zlib
from collections import OrderedDict
from typing import Any

import numpy as np

from graphc.core import TensorBase, from_array
from graphc.devices import check_device
from graphc.ir.errors import LoadError
from graphc.ir.types import DTYPES, DType, TensorType
from graphc.nn.modules.module import Module
from graphc.nn.parameter import Parameter

__all__ = ["load", "save"]

_INDEX = "graphc.json"
_FORMAT, _VERSION = "graphc", 1
_DEPTH = 200
_BY_TORCH_NAME = {d.torch_name: d for d in DTYPES.values()}


# -- writing -----------------------------------------------------------------------------------


class _Writer:
    """Turns a nest into JSON and collects its tensors, each once."""

    def __init__(self) -> None:
        self.tensors: list[Any] = []
        self._numbers: dict[Any, int] = {}
        self._open: set[int] = set()

    def tensor(self, t: Any) -> int:
        """The number of a tensor; tensors that are the same view of one storage share one."""
        key = (t._storage, t._chain, isinstance(t, Parameter), t.requires_grad)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.tensors)
            self.tensors.append(t)
        return number

    def encode(self, x: Any, depth: int = 0) -> Any:
        """`x` as JSON. Raises TypeError for what cannot be saved, ValueError for cycles."""
        match x:
            case None | bool() | str():
                return x
            case TensorBase():
                return {"tensor": self.tensor(x)}
            case np.generic():
                return self.encode(x.item(), depth)
            case int():
                return int(x)
            case float():
                return float(x) if math.isfinite(x) else {"float": repr(float(x))}
            case DType():
                return {"dtype": x.torch_name}
            case dict() | list() | tuple():
                return self._container(x, depth + 1)
            case Module():
                raise TypeError(
                    f"graphc.save does not save Module objects such as {type(x).__name__}: save module.state_dict(), "
                    "and load it with module.load_state_dict()"
                )
        raise TypeError(
            f"graphc.save saves nests of dict, list, tuple, Tensor, number, string and None, got {type(x).__name__}"
        )

    def _container(self, x: Any, depth: int) -> Any:
        if id(x) in self._open:
            raise ValueError("graphc.save: a container that holds itself cannot be saved")
        if depth > _DEPTH:
            raise ValueError(f"graphc.save: containers are nested more than {_DEPTH} deep")
        self._open.add(id(x))
        try:
            if isinstance(x, dict):
                kind = "ordered" if isinstance(x, OrderedDict) else "dict"
                return {kind: [[self._key(k, depth), self.encode(v, depth)] for k, v in x.items()]}
            return {"tuple" if isinstance(x, tuple) else "list": [self.encode(v, depth) for v in x]}
        finally:
            self._open.discard(id(x))

    def _key(self, key: Any, depth: int) -> Any:
        if not isinstance(key, (str, int, float, tuple, type(None))):
            raise TypeError(
                f"graphc.save: a dict key must be a string, number, tuple or None, got {type(key).__name__}"
            )
        return self.encode(key, depth)


def _index(writer: _Writer, root: Any) -> bytes:
    tensors = [
        {
            "dtype": t.tensor_type.dtype.torch_name,
            "shape": list(t.tensor_type.sizes),
            "parameter": isinstance(t, Parameter),
            "requires_grad": bool(t.requires_grad),
        }
        for t in writer.tensors
    ]
    content = {"format": _FORMAT, "version": _VERSION, "tensors": tensors, "root": root}
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def _write(writer: _Writer, index: bytes, file: Any) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.writestr(zipfile.ZipInfo(_INDEX), index)
        for i, t in enumerate(writer.tensors):
            values = np.ascontiguousarray(t._values())
            if sys.byteorder == "big":
                values = values.byteswap()
            archive.writestr(zipfile.ZipInfo(f"tensors/{i}"), values.tobytes())


def save(obj: Any, f: Any) -> None:
    """Saves a nest of dict, list, tuple, Tensor, number, string and None to a path or binary file.

    Tensors that are one object stay one. A path is written beside and then renamed, so a failure
    leaves the old file. Raises TypeError for anything else, Modules included (save their
    `state_dict()`), RuntimeError where there is no such directory.
    """
    writer = _Writer()
    index = _index(writer, writer.encode(obj))
    if not isinstance(f, (str, os.PathLike)):
        _write(writer, index, f)
        return
    path = os.fspath(f)
    parent = os.path.dirname(path) or "."
    if not os.path.isdir(parent):
        raise RuntimeError(f"Parent directory {parent} does not exist.")
    handle, temporary = tempfile.mkstemp(dir=parent, prefix=".graphc-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            _write(writer, index, file)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _umask() -> int:
    value = os.umask(0o077)
    os.umask(value)
    return value


# -- reading -----------------------------------------------------------------------------------


def _refuse(name: str, problem: str) -> LoadError:
    return LoadError(f"cannot load {name}: {problem}. Nothing in it was executed")


class _Reader:
    """Checks an archive entry by entry and rebuilds the nest."""

    def __init__(self, archive: zipfile.ZipFile, size: int, name: str) -> None:
        self.archive = archive
        self.name = name
        self.entries = self._checked_entries(size)
        self.tensors: dict[int, Any] = {}
        content = self._content()
        self.described = content["tensors"]
        if set(self.entries) != {_INDEX, *(f"tensors/{i}" for i in range(len(self.described)))}:
            raise self.refused("its entries are not those that its index names")
        self.root = content["root"]

    def refused(self, problem: str) -> LoadError:
        """The error to raise."""
        return _refuse(self.name, problem)

    def _checked_entries(self, size: int) -> dict[str, zipfile.ZipInfo]:
        entries: dict[str, zipfile.ZipInfo] = {}
        total = 0
        for info in self.archive.infolist():
            if info.filename.endswith("data.pkl"):
                raise self.refused(
                    "it is a PyTorch file, which holds a pickle; load it with PyTorch, and save its tensors as NumPy "
                    "arrays or with graphc.save"
                )
            if info.filename in entries:
                raise self.refused(f"entry {info.filename!r} occurs twice")
            if (
                info.compress_type != zipfile.ZIP_STORED
                or info.file_size != info.compress_size
                or info.flag_bits & 1
            ):
                raise self.refused(
                    f"entry {info.filename!r} is compressed or encrypted, which graphc never writes"
                )
            entries[info.filename] = info
            total += info.file_size
        if total > size:
            raise self.refused("its entries claim to be larger than the file")
        if _INDEX not in entries:
            raise self.refused("it is a zip file, but not one that graphc.save wrote")
        return entries

    def _content(self) -> dict[str, Any]:
        try:
            content = json.loads(self.archive.read(self.entries[_INDEX]))
        except (ValueError, RecursionError) as error:
            raise self.refused("its index is not valid JSON") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise self.refused("its index is not graphc's")
        if content.get("version") != _VERSION:
            raise self.refused(
                f"it has format version {content.get('version')!r}, this graphc reads {_VERSION}"
            )
        if not isinstance(content.get("tensors"), list) or "root" not in content:
            raise self.refused("its index is incomplete")
        return content

    def tensor(self, number: Any) -> Any:
        """Tensor `number`, the same object each time."""
        if type(number) is not int or not 0 <= number < len(self.described):
            raise self.refused(f"it names a tensor {number!r} that is not in it")
        if number not in self.tensors:
            self.tensors[number] = self._read_tensor(number, self.described[number])
        return self.tensors[number]

    def _read_tensor(self, number: int, described: Any) -> Any:
        if not isinstance(described, dict):
            raise self.refused(f"tensor {number} is not described")
        dtype, shape = _BY_TORCH_NAME.get(described.get("dtype") or ""), described.get("shape")
        if dtype is None:
            raise self.refused(f"tensor {number} has an unknown dtype")
        if (
            not isinstance(shape, list)
            or len(shape) > 32
            or any(type(d) is not int or not 0 <= d < 2**40 for d in shape)
        ):
            raise self.refused(f"tensor {number} has no valid shape")
        info = self.entries[f"tensors/{number}"]
        if TensorType(dtype, tuple(shape)).nbytes != info.file_size:
            raise self.refused(f"tensor {number} has {info.file_size} bytes, its shape and dtype need others")
        data = self.archive.read(info)
        if dtype.name == "bool" and any(b > 1 for b in set(data)):
            raise self.refused(f"tensor {number} is of bools but holds other bytes")
        values = np.frombuffer(data, dtype.numpy)
        if sys.byteorder == "big":
            values = values.byteswap()
        tensor: Any = from_array(values.reshape(shape), share=False)
        wanted = bool(described.get("requires_grad"))
        if wanted and not dtype.is_floating_point:
            raise self.refused(f"tensor {number} requires grad but is of {dtype}")
        if described.get("parameter"):
            return Parameter(tensor, wanted)
        return tensor.requires_grad_(True) if wanted else tensor

    def decode(self, x: Any, depth: int = 0) -> Any:
        """The value that JSON `x` stands for."""
        if x is None or isinstance(x, (bool, int, float, str)):
            return x
        if depth > _DEPTH or not isinstance(x, dict) or len(x) != 1:
            raise self.refused("its index holds something that graphc.save does not write")
        ((kind, value),) = x.items()
        match kind, value:
            case "tensor", _:
                return self.tensor(value)
            case "float", "inf" | "-inf" | "nan":
                return float(value)
            case "dtype", str() if value in _BY_TORCH_NAME:
                return _BY_TORCH_NAME[value]
            case "list", list():
                return [self.decode(v, depth + 1) for v in value]
            case "tuple", list():
                return tuple(self.decode(v, depth + 1) for v in value)
            case "dict" | "ordered", list():
                return self._mapping(OrderedDict() if kind == "ordered" else {}, value, depth)
        raise self.refused("its index holds something that graphc.save does not write")

    def _mapping(self, result: dict[Any, Any], pairs: list[Any], depth: int) -> dict[Any, Any]:
        for pair in pairs:
            if not isinstance(pair, list) or len(pair) != 2:
                raise self.refused("its index holds something that graphc.save does not write")
            key = self.decode(pair[0], depth + 1)
            try:
                result[key] = self.decode(pair[1], depth + 1)
            except TypeError as error:
                raise self.refused("a dict key in it is not hashable") from error
        return result


def load(f: Any, map_location: Any = None, weights_only: bool = True, **options: Any) -> Any:
    """Loads what `save` wrote, from a path or a seekable binary file. Never executes anything.

    Raises LoadError for a file that is truncated, damaged, foreign or made to harm, and
    FileNotFoundError for none.
    """
    if isinstance(map_location, dict) or callable(map_location):
        map_location = None
    check_device(map_location)
    if isinstance(f, (str, os.PathLike)):
        with open(f, "rb") as file:
            return _load(file, os.fspath(f))
    return _load(f, getattr(f, "name", type(f).__name__))


def _load(file: Any, name: Any) -> Any:
    name = str(name)
    try:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            reader = _Reader(archive, size, name)
            return reader.decode(reader.root)
    except LoadError:
        raise
    except zipfile.BadZipFile as error:
        raise _refuse(name, "it is damaged, truncated, or not a file that graphc.save wrote") from error
    except (
        ValueError,
        OverflowError,
        MemoryError,
        EOFError,
        KeyError,
        NotImplementedError,
        RuntimeError,
        RecursionError,
        zlib.error,
    ) as error:
        raise _refuse(name, f"it is damaged ({type(error).__name__})") from error
