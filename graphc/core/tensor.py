"""The core of `Tensor`: a handle on a storage plus a chain of views.

Reading a tensor reads its storage's current value through the chain; writing it in place replaces
the storage's value through the inverse of the chain. So views and in-place operations have
PyTorch's meaning although every value in the graph is immutable.

The slots `_record` and `_owner` are what the native call entry reads and writes; a tensor made by
it has no storage object until one is asked for.

Longer than most files: reading, views and writes share the slots and cannot be taken apart without a circle.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from typing import Any, ClassVar

import numpy as np

from graphc.core.evaluate import evaluate
from graphc.core.location import annotate, user_location, warn_user
from graphc.core.modes import _mode
from graphc.core.node import Node
from graphc.core.recording import UNLIMITED, Recording, current, record_nodes
from graphc.core.size import Size
from graphc.core.storage import Memory, Storage, memory_of
from graphc.core.symint import symbolic
from graphc.ir.attributes import Dense
from graphc.ir.errors import TraceError
from graphc.ir.families import REGISTRY
from graphc.ir.graph import Role
from graphc.ir.types import DType, TensorType
from graphc.runtime import entry
from graphc.runtime.state import bump_epoch, bump_stamp, stamp

__all__ = [
    "TensorBase",
    "assign",
    "constant",
    "from_array",
    "from_memory",
    "is_known",
    "known_address",
    "native_record",
    "record",
    "record_rows",
    "record_view",
    "register_tensor",
    "replace_value",
    "wrap",
]

Chain = tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]
_SCALARS: dict[str, Any] = {
    "f32": ctypes.c_float,
    "f64": ctypes.c_double,
    "i64": ctypes.c_int64,
    "i32": ctypes.c_int32,
    "bool": ctypes.c_bool,
}
"""What reads a number at an address, by dtype."""


class TensorBase:
    """Storage, views, evaluation and autograd state of a tensor; the public class adds methods."""

    __slots__ = (
        "__dict__",
        "__weakref__",
        "_cache",
        "_chain",
        "_detached",
        "_grad",
        "_hooks",
        "_leaf",
        "_owner",
        "_record",
        "_stored",
        "_type",
    )

    _cache: tuple[Node, Node, int] | None
    _chain: Chain
    _detached: bool
    _grad: Any
    _hooks: Any
    """Hooks of a leaf, by number; unset until there is one."""
    _leaf: bool
    _owner: Any
    _record: bytes | None
    _stored: Storage | None
    _type: TensorType | None

    _tensor_class: ClassVar[type[TensorBase]]
    _parameter_class: ClassVar[type[TensorBase] | None] = None

    # -- construction -----------------------------------------------------------------

    @classmethod
    def _new(cls, storage: Storage, type_: TensorType, chain: Chain = ()) -> Any:
        self: Any = object.__new__(cls)
        self._stored = storage
        self._type = type_
        self._chain = chain
        self._cache = None
        self._detached = False
        self._leaf = False
        self._grad = None
        self._record = None
        self._owner = None
        return self

    @property
    def _storage(self) -> Storage:
        """The storage; made on first use for an output of a compiled call."""
        if self._stored is None:
            assert self._record is not None
            assert self._type is not None
            address = int.from_bytes(self._record[:8], "little")
            self._stored = Storage(Node(self._type, memory=Memory(self._type, self._owner, address)))
        return self._stored

    @property
    def tensor_type(self) -> TensorType:
        """dtype and shape as the IR's type."""
        if self._type is None:
            return self._storage.node.type
        return self._type

    @property
    def shape(self) -> Size:
        """Sizes of the dimensions."""
        type_ = self.tensor_type
        return Size(type_.shape if type_.is_static else map(symbolic, type_.shape))

    @property
    def dtype(self) -> DType:
        """Element type."""
        return self.tensor_type.dtype

    # -- reading ----------------------------------------------------------------------

    def _read(self) -> Node:
        """This tensor's current value as a node of the current recording."""
        storage = self._storage
        base = storage.node
        recording = current()
        if recording.region is not None and (base.entry is None or base.entry.recording is not recording):
            captured: Node = recording.region.capture(self)
            return captured
        if base.entry is not None:
            if base.entry.recording is not recording:
                _join(base)
        elif recording.trace is None:
            assert base.memory is not None
            if base.memory.shared:
                if not (self._leaf or base.requires_grad or base.leaf):
                    return self._snapshot(storage)
                base = storage.apart()
            elif self._chain and not (self._leaf or base.requires_grad or base.leaf) and _slices(self._chain):
                # A part of data: read where it is now, so that the program does not depend on which part.
                # A compiled call may have written what a copy was made of.
                cached, version = self._cache, storage.version
                if (
                    cached is None
                    or cached[0] is not base
                    or cached[1].memory is None
                    or cached[2] != version
                ):
                    cached = self._cache = (base, self._part(storage), version)
                recording.parts.setdefault(storage, {})[cached[1]] = None
                return cached[1]
        if recording.trace is not None:
            recording.trace.read(storage)
        if self._leaf and base.leaf is None and not self._chain and not self._detached:
            base.leaf = weakref.ref(self)
            base.requires_grad = True
        # Another handle on a leaf's storage (what a Parameter was made of) is no leaf itself.
        detached = self._detached or (base.leaf is not None and not self._leaf and not self._chain)
        if not self._chain and not detached:
            return base
        cached = self._cache
        if (
            cached is not None
            and cached[0] is base
            and (cached[1].entry is not None and cached[1].entry.recording is recording)
            and cached[2] == _mode.enabled
        ):
            return cached[1]
        node = base
        for name, attrs in self._chain:
            node = record_nodes(name, (node,), dict(attrs))[0]
        if detached and node.requires_grad:
            node = record_nodes("detach", (node,), {})[0]
        if self._leaf and not node.requires_grad:
            if node is base or node.leaf is not None:
                node = record_nodes("detach", (node,), {})[0]
            node.leaf = weakref.ref(self)
            node.requires_grad = True
        self._cache = (base, node, _mode.enabled)
        return node

    def _snapshot(self, storage: Storage) -> Node:
        """A copy of the value as it is now, since somebody outside can write the bytes."""
        node = Node(self.tensor_type, memory=memory_of(self._array(storage), share=False))
        if self._leaf:
            node.leaf = weakref.ref(self)
            node.requires_grad = True
        return node

    def _part(self, storage: Storage) -> Node:
        """The value as a part of the storage's own bytes where it is one block of them, else a copy."""
        assert storage.memory is not None
        memory = storage.memory.part(self._array(storage))
        return self._snapshot(storage) if memory is None else Node(self.tensor_type, memory=memory)

    def _array(self, storage: Storage) -> np.ndarray[Any, Any]:
        """The realised value through the chain, as a NumPy view of the memory.

        Raises RuntimeError where the computation of the value has failed.
        """
        if storage.memory is None:
            raise RuntimeError("this tensor has no value: the computation that made it failed")
        return _through(storage.memory.array, self._chain)

    def realize(self) -> Any:
        """Evaluates now. Returns the tensor. Raises TraceError while tracing."""
        storage = self._storage
        entry = storage.node.entry
        if entry is not None:
            if entry.recording.trace is not None:
                raise _value_wanted() if entry.recording is current() else _used_outside()
            evaluate(entry.recording)
        elif current().trace is not None and current().trace.is_input(storage):
            raise _value_wanted()
        return self

    def numpy(self, *, force: bool = False) -> np.ndarray[Any, Any]:
        """The elements as a NumPy array that shares the tensor's memory.

        Raises RuntimeError where the tensor requires grad (use `detach()`), unless `force`.
        """
        if self.requires_grad and not force:
            raise RuntimeError(
                "Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead."
            )
        self.realize()
        storage = self._storage
        assert storage.memory is not None
        if self.dtype.name == "bf16" and not force:
            raise TypeError("Got unsupported ScalarType BFloat16")
        _finish_readers(storage)
        return _through(storage.memory.export(), self._chain)

    def _values(self) -> np.ndarray[Any, Any]:
        """The elements for our own reading at once; never handed out."""
        self.realize()
        return self._array(self._storage)

    def item(self) -> Any:
        """The only element as a Python number. Raises RuntimeError where there is not exactly one."""
        type_ = self.tensor_type
        if type_.numel != 1:
            raise RuntimeError(f"a Tensor with {type_.numel} elements cannot be converted to Scalar")
        if self._stored is None and type_.dtype.name in _SCALARS:  # a result of a compiled call
            assert self._record is not None
            address = int.from_bytes(self._record[:8], "little")
            return _SCALARS[type_.dtype.name].from_address(address).value
        return self._values().reshape(-1)[0].item()

    def tolist(self) -> Any:
        """The elements as nested lists of Python numbers (a number for rank 0)."""
        return self._values().tolist()

    # -- autograd state ---------------------------------------------------------------

    @property
    def requires_grad(self) -> bool:
        """True where operations on it are recorded for `backward`."""
        if self._leaf:
            return True
        node = self._storage.node
        return not self._detached and node.requires_grad and (node.leaf is None or bool(self._chain))

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Makes a leaf require grad or not. Raises RuntimeError for a non-leaf or an integer tensor."""
        if not isinstance(requires_grad, bool):
            raise TypeError(
                f"requires_grad_(): argument 'requires_grad' must be bool, not {type(requires_grad).__name__}"
            )
        if requires_grad and not self.dtype.is_floating_point:
            raise RuntimeError("only Tensors of floating point dtype can require gradients")
        if not self.is_leaf:
            if requires_grad:
                return self
            raise RuntimeError(
                "you can only change requires_grad flags of leaf variables. If you want to use a computed "
                "variable in a subgraph that doesn't require differentiation use var_no_grad = var.detach()."
            )
        if self._leaf != requires_grad:
            self._leaf = requires_grad
            self._cache = None
            self._record = None
            node = self._storage.node
            if not self._chain and not self._detached:
                node.leaf = weakref.ref(self) if requires_grad else None
                node.requires_grad = requires_grad
            bump_epoch()
            bump_stamp()
        return self

    @property
    def is_leaf(self) -> bool:
        """True of tensors that no recorded operation made."""
        return self._leaf or not self.requires_grad

    @property
    def grad(self) -> Any:
        """The accumulated gradient, or None."""
        trace = current().trace
        if trace is not None:
            trace.look(self, "read")
        grad = self._grad
        if type(grad) is LostGradient:
            raise grad.error()
        if grad is not None and trace is not None:
            trace.use(self)
        return grad

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not None:
            if not isinstance(value, TensorBase):
                raise TypeError(
                    f"assigned grad expected to be a Tensor or None but got {type(value).__name__}"
                )
            if value.tensor_type != self.tensor_type:
                raise RuntimeError(
                    f"assigned grad has data of a different size or type: expected {self.tensor_type}, got {value.tensor_type}"
                )
        trace = current().trace
        if trace is not None:
            trace.save_grad(self, value)
        elif self._grad is not None or value is not None:
            bump_epoch()
        self._grad = value

    def detach(self) -> Any:
        """A tensor that shares the memory and is not on the tape."""
        result = self._tensor_class._new(self._storage, self.tensor_type, self._chain)
        result._detached = True
        if self._record is not None and not self.requires_grad:
            result._record = self._record
        return result


class LostGradient:
    """Stands for a gradient that a compiled call both made and consumed."""

    def __init__(self, name: str) -> None:
        self.name = name

    def error(self) -> Exception:
        """The error that reading it raises."""
        return TraceError(
            f"the gradient of {self.name or 'this parameter'} was produced and consumed inside a compiled "
            "call and was not kept; compile with graphc.compile(..., keep_grads=True) to read it or add to it "
            "afterwards, or call zero_grad() first"
        )


def register_tensor(cls: type[TensorBase]) -> None:
    """Says which class results are made of; called once, by the module of the public class."""
    TensorBase._tensor_class = cls


def register_parameter(cls: type[TensorBase]) -> None:
    """Says which other class compiled calls accept as an argument; called once."""
    TensorBase._parameter_class = cls


def wrap(node: Node) -> Any:
    """A tensor on a new storage whose current value is `node`."""
    storage = Storage(node)
    if node.entry is not None:
        node.entry.recording.track(storage)
    return TensorBase._tensor_class._new(storage, node.type)


def record(name: str, *operands: Any, **attrs: Any) -> Any:
    """Appends IR op `name` to the recording; returns its result Tensor, or a tuple of them.

    Types are inferred at once, so shape and dtype errors are raised at the user's line.
    """
    results = record_nodes(name, [t._read() for t in operands], attrs)
    recording = results[0].entry.recording  # type: ignore[union-attr]
    if len(recording.entries) > recording.limit:
        return _wrapped_and_evaluated(results)
    return wrap(results[0]) if len(results) == 1 else tuple(map(wrap, results))


def _wrapped_and_evaluated(results: tuple[Node, ...]) -> Any:
    """Results as tensors, after a recording that grew past the limit was evaluated."""
    tensors = tuple(map(wrap, results))
    recording = current()
    if recording.trace is None:
        evaluate(recording)
    else:
        _warn_of_length(recording)
    return tensors[0] if len(tensors) == 1 else tensors


def _warn_of_length(recording: Recording) -> None:
    """Warns, once for each trace, that it has become long."""
    message = (
        f"the trace of a compiled function has passed {recording.limit} operations, most likely because a Python "
        "loop is unrolled: the time to compile it grows with its length. graphc.scan (or fori_loop, while_loop) "
        "records one step, whatever the length"
    )
    recording.limit = UNLIMITED
    warn_user(message)


def record_view(name: str, x: Any, **attrs: Any) -> Any:
    """A view of `x` through view op `name`: shares the storage of `x`."""
    cls = REGISTRY[name]
    plain = current().plain
    if plain is not None:
        attrs = {k: plain(v) for k, v in attrs.items()}
    try:
        (type_,) = cls.infer((x.tensor_type,), {**cls.attributes, **attrs})
    except (TypeError, RuntimeError, ValueError, IndexError) as error:
        annotate(error)
        raise
    step = (name, tuple(attrs.items()))
    result = TensorBase._tensor_class._new(x._storage, type_, (*x._chain, step))
    result._detached = x._detached
    if x._leaf and x._chain == () and not x._detached:
        # The base value is the leaf: reading the view goes through it, so make sure it is marked.
        x._read()
    return result


@functools.lru_cache(maxsize=4096)
def _rows_of(type_: TensorType) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    """What slices of rows have in common: starts, stops and strides of the other dimensions; bytes of a row."""
    rest = type_.sizes[1:]
    count = type_.sizes[0]
    return (0,) * len(rest), rest, (1,) * len(rest), type_.nbytes // count if count else 0


@functools.lru_cache(maxsize=4096)
def _rows_type(type_: TensorType, count: int | None) -> tuple[TensorType, bytes]:
    """Type and native signature of so many rows of a tensor of a static type, or of a single one without its dimension."""
    part = type_.with_shape(((count,) if count is not None else ()) + type_.shape[1:])
    return part, _signature(part, False)


def record_rows(x: Any, start: int, stop: int | None = None) -> Any:
    """Rows `start` to `stop` of a tensor of a static type, 0 <= start <= stop <= len(x), or row `start` alone without its
    dimension: as `record_view`, but quick, and known to the native entry where the values are there."""
    whole: TensorType = x.tensor_type
    zeros, rest, ones, nbytes = _rows_of(whole)
    end = start + 1 if stop is None else stop
    steps: Chain = (
        ("slice", (("starts", (start, *zeros)), ("stops", (end, *rest)), ("strides", (1, *ones)))),
    )
    if stop is None:
        steps += (("reshape", (("shape", rest),)),)
    type_, signature = _rows_type(whole, None if stop is None else stop - start)
    storage: Storage = x._storage
    result = TensorBase._tensor_class._new(storage, type_, x._chain + steps)
    result._detached = x._detached
    node, memory = storage.node, storage.memory
    if x._leaf and x._chain == () and not x._detached:
        x._read()
    elif x._chain == () and memory is not None and node.entry is None and not (x._leaf or node.requires_grad):
        address = memory.address + nbytes * start
        if address % 16 == 0:
            result._record = _head(address) + signature
    return result


def known_address(x: Any) -> int | None:
    """Where the elements of a tensor lie in row-major order; None where nobody knows, or the value is pending."""
    if not is_known(x):
        return None
    stored: Storage | None = x._stored
    if stored is not None and stored.node.entry is not None:
        return None
    return int.from_bytes(x._record[:8], "little")


def constant(array: Any) -> Any:
    """A tensor whose value is fixed in the program."""
    (node,) = record_nodes("constant", (), {"value": Dense(array)})
    return wrap(node)


def native_record(address: int, type_: TensorType, *, requires_grad: bool = False) -> bytes:
    """What the native entry compares and reads of a tensor."""
    return _head(address) + _signature(type_, requires_grad)


def _head(address: int) -> bytes:
    """A native record's address and stamp."""
    return (address | stamp() << 64).to_bytes(16, "little")


_signatures: dict[int, bytes] = {}


def _signature(type_: TensorType, requires_grad: bool) -> bytes:
    """A native record behind address and stamp."""
    key = 2 * type_.number + requires_grad
    found = _signatures.get(key)
    if found is None:
        record = entry.record_bytes(
            0, type_.nbytes, type_.dtype.code, type_.sizes, requires_grad=requires_grad
        )
        found = _signatures[key] = record[16:]
    return found


def is_known(x: Any) -> bool:
    """True of a tensor whose native record holds."""
    record: bytes | None = x._record
    return record is not None and int.from_bytes(record[8:16], "little") == stamp()


def from_array(array: np.ndarray[Any, Any], *, share: bool, role: Role = "buffer", name: str = "") -> Any:
    """A realised tensor of a NumPy array's elements; shares its memory where asked and possible."""
    memory = memory_of(array, share=share)
    memory.role, memory.name = role, name
    return from_memory(memory)


def from_memory(memory: Memory) -> Any:
    """A realised tensor over memory of its own."""
    made = TensorBase._tensor_class._new(Storage(Node(memory.type, memory=memory)), memory.type)
    made._record = native_record(memory.address, memory.type)
    return made


def assign(x: Any, value: Any) -> None:
    """Writes `value` (of x's shape and dtype) into `x` in place, through its views.

    Memory that somebody outside can see is written before this returns, other memory when a value is
    asked for. Raises RuntimeError where `x` is a leaf that requires grad, or a view of one, in grad
    mode, and where several elements of `x` share a memory location.
    """
    if value.tensor_type != x.tensor_type:
        error = RuntimeError(f"in-place write: expected {x.tensor_type}, got {value.tensor_type}")
        annotate(error)
        raise error
    storage: Storage = x._storage
    if _mode.enabled and (x._leaf or (x._chain and storage.node.leaf is not None and not x._detached)):
        what = (
            "a view of a leaf Variable that requires grad"
            if x._chain
            else "a leaf Variable that requires grad"
        )
        error = RuntimeError(f"{what} is being used in an in-place operation.")
        annotate(error)
        raise error
    recording = current()
    node: Node = value._read()
    if x._chain:
        node = _write_through(x, storage, node)
    elif node.entry is None or node.leaf is not None or any(node is n for n in (storage.node,)):
        # A copy of its own: a node realised elsewhere cannot be this storage's value.
        node = record_nodes("reshape", (node,), {"shape": x.tensor_type.shape})[0]
        if node.entry is not None:
            node.entry.copies = True
    if recording.trace is not None:
        recording.trace.write(storage)
    replace_value(recording, storage, node)
    x._record = None
    if (
        storage.memory is not None
        and recording.trace is None
        and recording.limit != UNLIMITED
        and storage.memory.shared
    ):
        evaluate(recording)


def _copy_parts(recording: Recording, storage: Storage) -> None:
    """Moves what pending entries read as parts of a storage to copies, before a write to it is recorded: a
    program takes a part and the whole for different memory, so it would not read the one before it writes
    the other."""
    for node in recording.parts.pop(storage, ()):
        part = node.memory
        if part is not None and part.whole is not None:
            node.memory = memory_of(part.array, share=False)
            node.memory.whole = part.whole


def replace_value(recording: Recording, storage: Storage, node: Node) -> None:
    """Gives `storage` a value that was recorded; a leaf that is written with gradients off stays a leaf."""
    leaf = storage.node.leaf if not _mode.enabled else None
    required = storage.node.requires_grad
    if recording.parts:
        _copy_parts(recording, storage)
    storage.node = node
    if storage.memory is not None and recording.trace is None:
        storage.memory.version += 1
        storage.memory.written_otherwise()
    recording.track(storage)
    if leaf is not None:
        if node.requires_grad:
            node = storage.node = record_nodes("detach", (node,), {})[0]
        node.leaf, node.requires_grad = leaf, True
    if required != node.requires_grad and recording.trace is None:
        bump_epoch()
        bump_stamp()


def _write_through(x: Any, storage: Storage, node: Node) -> Node:
    """The storage's new value when its view `x` becomes `node`."""
    whole = x._tensor_class._new(storage, storage.node.type)
    values = [whole._read()]
    for name, attrs in x._chain[:-1]:
        values.append(record_nodes(name, (values[-1],), dict(attrs))[0])
    for (name, attrs), base in zip(reversed(x._chain), reversed(values), strict=True):
        cls: Any = REGISTRY[name]
        node = cls.write_through(_NodeBuilder(), {**cls.attributes, **dict(attrs)}, base, node)
    return node


class _NodeBuilder:
    """The builder that `View.write_through` is written against, on nodes of the recording."""

    def __getattr__(self, name: str) -> Any:
        return lambda *operands, **attrs: record_nodes(name, operands, attrs)[0]


def _slices(chain: Chain) -> bool:
    return any(name == "slice" for name, _ in chain)


def _through(array: np.ndarray[Any, Any], chain: Chain) -> np.ndarray[Any, Any]:
    for name, attrs in chain:
        cls = REGISTRY[name]
        array = cls.reference({**cls.attributes, **dict(attrs)}, array)
    return array


def _join(node: Node) -> None:
    """Evaluates another recording's pending value so that this one can use it."""
    assert node.entry is not None
    if node.entry.recording.trace is not None:
        raise _used_outside()
    evaluate(node.entry.recording)


def _used_outside() -> TraceError:
    return TraceError(
        "a value computed inside a compiled function was used outside of it; return it instead", **_where()
    )


def _finish_readers(storage: Storage) -> None:
    """Evaluates pending operations before the storage's bytes are handed out."""
    recording = current()
    if recording.trace is None and recording.entries:
        evaluate(recording)


def _value_wanted() -> TraceError:
    return TraceError(
        "a value was asked for while a function was being compiled (or mapped by vmap, or recorded as the body of a loop "
        "or branch), so it is not known yet. Return the "
        "value from the function, or use graphc.where, graphc.cond or graphc.while_loop in place of a data-dependent branch",
        **_where(),
    )


def _where() -> dict[str, Any]:
    location = user_location()
    return {} if location is None else {"filename": location.filename, "lineno": location.lineno}
