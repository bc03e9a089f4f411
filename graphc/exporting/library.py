"""`load_library`: an exported library called from Python on NumPy arrays."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from graphc.exporting.interface import BufferInfo, Interface, read_interface
from graphc.ir.errors import LoadError

__all__ = ["Library", "load_library"]

_ALIGNMENT = 64
_EXCEPTIONS: dict[str, type[Exception]] = {
    e.__name__: e for e in (IndexError, RuntimeError, ValueError, ZeroDivisionError, TypeError)
}
Array = np.ndarray[Any, Any]


def _aligned(nbytes: int) -> Array:
    memory = np.zeros(nbytes + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    block: Array = memory[start : start + nbytes]
    return block


def _shaped(block: Array, info: BufferInfo) -> Array:
    shaped: Array = block[: info.type.nbytes].view(info.type.dtype.numpy).reshape(info.shape)
    return shaped


class Library:
    """A loaded library with a state block of its own.

    Calling it runs once: NumPy arrays in the order of `inputs` give arrays in the order of `outputs`
    (one array where there is one). Calls of one object must not overlap; make another for another
    thread.
    """

    def __init__(self, path: Path, interface: Interface) -> None:
        self.path = path
        self.name = interface.name
        self.inputs = interface.inputs
        self.outputs = interface.outputs
        self._interface = interface
        self._functions = self._load(path)
        self._state = _aligned(max(interface.state_bytes, 1))
        self._workspace = _aligned(max(interface.workspace_bytes, 1))
        self.dims = tuple(d.name for d in interface.dims)
        """Named sizes; those of a call follow from its arrays."""
        self.reset()

    def _load(self, path: Path) -> dict[str, Any]:
        interface = self._interface
        try:
            library = ctypes.CDLL(str(path.resolve()))
            pointer = ctypes.c_void_p
            found = {}
            for suffix, result, arguments in (
                ("abi_version", ctypes.c_int, []),
                ("fingerprint", ctypes.c_char_p, []),
                ("state_size", ctypes.c_size_t, []),
                ("workspace_size", ctypes.c_size_t, [pointer]),
                ("init", ctypes.c_int, [pointer, pointer]),
                ("run", ctypes.c_int, [pointer] * 5),
                ("error", ctypes.c_char_p, [ctypes.c_int]),
            ):
                function = getattr(library, f"{interface.name}_{suffix}")
                function.restype, function.argtypes = result, arguments
                found[suffix] = function
            if interface.has_learning_rate:
                found["set_lr"] = getattr(library, f"{interface.name}_set_lr")
                found["set_lr"].argtypes = [pointer, ctypes.c_float]
        except (OSError, AttributeError) as error:
            raise LoadError(f"{path}: cannot be loaded as the library {interface.name!r}: {error}") from None
        if (
            found["abi_version"]() != interface.abi_version
            or found["fingerprint"]() != interface.fingerprint.encode()
        ):
            raise LoadError(f"{path}: does not fit its interface file; export both again")
        return found

    def reset(self) -> None:
        """Puts the state block back to the exported values."""
        self._check(self._functions["init"](self._state.ctypes.data, None))

    def set_lr(self, lr: float) -> None:
        """Sets the learning rate of an exported training step. Raises AttributeError where there is none."""
        if "set_lr" not in self._functions:
            raise AttributeError(f"library {self.name!r} has no learning rate")
        self._check(self._functions["set_lr"](self._state.ctypes.data, lr))

    def state_dict(self) -> dict[str, Array]:
        """Copies of all states by name."""
        return {
            info.name: _shaped(self._state[info.offset :], info).copy() for info in self._interface.states
        }

    def __call__(self, *arrays: Any) -> Any:
        """Runs once. Raises TypeError or ValueError where an array does not fit its input."""
        if len(arrays) != len(self.inputs):
            raise TypeError(f"{self.name} takes {len(self.inputs)} inputs, got {len(arrays)}")
        given = [np.asarray(a) for a in arrays]
        sizes = self._sizes(given)
        inputs = [self._input(info.at(sizes), a) for info, a in zip(self.inputs, given, strict=True)]
        dims = (ctypes.c_int64 * max(1, len(self.dims)))(*[sizes[name] for name in self.dims])
        if self.dims:
            self._make_room(dims)
        outputs = [info.at(sizes) for info in self.outputs]
        blocks = [_aligned(max(info.type.nbytes, 1)) for info in outputs]
        sources = (ctypes.c_void_p * max(1, len(inputs)))(*[a.ctypes.data for a in inputs])
        targets = (ctypes.c_void_p * max(1, len(blocks)))(*[b.ctypes.data for b in blocks])
        self._check(
            self._functions["run"](
                self._state.ctypes.data,
                sources,
                targets,
                dims if self.dims else None,
                self._workspace.ctypes.data,
            )
        )
        results = [_shaped(b, info) for b, info in zip(blocks, outputs, strict=True)]
        return results[0] if len(results) == 1 else tuple(results)

    def _sizes(self, arrays: list[Array]) -> dict[str, int]:
        """The named sizes of a call. Raises ValueError where they are outside of their bounds, or arrays disagree."""
        found: dict[str, int] = {}
        for info, array in zip(self.inputs, arrays, strict=True):
            if array.ndim != len(info.shape):
                raise ValueError(
                    f"{self.name}: input {info.name} is {info.type}, got shape {list(array.shape)}"
                )
            for d, size in zip(info.shape, array.shape, strict=True):
                if isinstance(d, str) and found.setdefault(d, size) != size:
                    raise ValueError(
                        f"{self.name}: input {info.name} is {info.type} with {d}={found[d]}, got shape "
                        f"{list(array.shape)}"
                    )
        for dim in self._interface.dims:
            size = found[dim.name]
            if size < dim.min or (dim.max is not None and size > dim.max):
                most = "any size" if dim.max is None else dim.max
                raise ValueError(
                    f"{self.name}: {dim.name} is {size}, which is outside of its range of {dim.min} to {most}"
                )
        return found

    def _make_room(self, dims: Any) -> None:
        """Sees to it that the workspace is large enough; sizes that the library refuses are refused by `run`."""
        size = self._functions["workspace_size"](dims)
        if size > self._workspace.size:
            self._workspace = _aligned(size)

    def _input(self, info: BufferInfo, given: Array) -> Array:
        if given.dtype != info.type.dtype.numpy:
            raise TypeError(f"{self.name}: input {info.name} is {info.type}, got dtype {given.dtype}")
        if given.shape != info.shape:
            raise ValueError(f"{self.name}: input {info.name} is {info.type}, got shape {list(given.shape)}")
        if given.flags.c_contiguous and given.ctypes.data % _ALIGNMENT == 0 and given.size:
            return given
        block = _aligned(max(info.type.nbytes, 1))
        _shaped(block, info)[...] = given
        return block

    def _check(self, code: int) -> None:
        if code == 0:
            return
        kind, message = self._interface.errors.get(code, ("RuntimeError", ""))
        text = message or self._functions["error"](code).decode()
        raise _EXCEPTIONS.get(kind, RuntimeError)(text)


def load_library(path: str | os.PathLike[str]) -> Library:
    """Loads a library that `export_library` wrote, with the `.json` beside it.

    Raises LoadError where a file is missing, damaged, foreign or for another machine.
    """
    file = Path(path)
    name = re.sub(r"^lib|\..*$", "", file.name)
    if not file.is_file():
        raise LoadError(f"{file}: there is no such library")
    candidates = [file.parent / f"{name}.json", *sorted(file.parent.glob("*.json"))]
    interface = read_interface(next((c for c in candidates if c.is_file()), candidates[0]))
    return Library(file, interface)
