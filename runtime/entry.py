"""The call entry seen from Python: signatures, results and the builtin that checks and runs them.

A `Dispatcher` has a builtin (`function`) and a list of `Variant`s. A call runs the first
variant whose epoch, grad mode and arguments match, in native code; any other call goes to
the dispatcher's slow callable with the same arguments. Invariant: whatever a native record
points at is referenced by the Python object that owns the record.
"""

from __future__ import annotations

import ctypes
import functools
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from types import MemberDescriptorType
from typing import Any

import numpy as np

from graphc.ir.records import dataclass
from graphc.runtime.binding import Binding
from graphc.runtime.executable import Executable
from graphc.runtime.host import host
from graphc.runtime.layout import (
    ARGUMENT,
    ARGUMENT_KINDS,
    DISPATCHER,
    OUTPUT,
    RESULT_KINDS,
    SLOT,
    TREES,
    VARIANT,
    Words,
    words,
)
from graphc.runtime.state import stamp

__all__ = [
    "MISSED",
    "AnyTensor",
    "Dispatcher",
    "Nest",
    "Number",
    "ObjectResult",
    "SharedResult",
    "Static",
    "TensorArgument",
    "TensorLayout",
    "TensorResult",
    "Variant",
    "record_bytes",
]

_METH_FASTCALL_KEYWORDS = 0x0080 | 0x0002
_RECORD_HEAD = struct.Struct("=qqqiiq")
_OBJECT_MEMBER = 16  # T_OBJECT_EX


def record_bytes(
    data: int, nbytes: int, dtype_code: int, dims: Sequence[int], *, requires_grad: bool = False
) -> bytes:
    """A Tensor's native record: address, stamp, bytes, dtype code, rank, whether it requires grad, dims."""
    head = _RECORD_HEAD.pack(data, stamp(), nbytes, dtype_code, len(dims), int(requires_grad))
    return head + struct.pack(f"={len(dims)}q", *dims)


class _MemberDef(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p),
        ("type", ctypes.c_int),
        ("offset", ctypes.c_ssize_t),
        ("flags", ctypes.c_int),
        ("doc", ctypes.c_char_p),
    ]


def _slot_offsets(cls: type) -> dict[str, int]:
    """Byte offset in an instance of each `__slots__` entry of `cls` and its bases."""
    found: dict[str, int] = {}
    member_at = object.__basicsize__ + 3 * ctypes.sizeof(ctypes.c_void_p)
    for base in cls.__mro__:
        for name, descriptor in vars(base).items():
            if not isinstance(descriptor, MemberDescriptorType) or name in found:
                continue
            definition = _MemberDef.from_address(
                ctypes.c_uint64.from_address(id(descriptor) + member_at).value
            )
            if definition.type == _OBJECT_MEMBER:
                found[name] = definition.offset
    return found


class TensorLayout:
    """Where a Tensor class keeps its record and owner, and what its other slots hold in a new Tensor.

    `cls` has `__slots__`; `also` is a second class that is accepted as an argument (Parameter).
    `defaults` gives the object of each slot that results do not name; slots without one are unset.
    """

    __slots__ = ("also", "cls", "defaults", "offsets", "owner", "record")

    def __init__(
        self,
        cls: type,
        *,
        also: type | None = None,
        record: str = "_record",
        owner: str = "_owner",
        defaults: Mapping[str, object] | None = None,
    ) -> None:
        self.cls = cls
        self.also = cls if also is None else also
        self.offsets = _slot_offsets(cls)
        if also is not None and any(_slot_offsets(also).get(n) != o for n, o in self.offsets.items()):
            raise TypeError(f"{also.__name__} does not keep the slots of {cls.__name__}")
        for name in (record, owner, *(defaults or {})):
            if name not in self.offsets:
                raise TypeError(f"{cls.__name__} has no slot {name}")
        self.record = self.offsets[record]
        self.owner = self.offsets[owner]
        self.defaults = dict(defaults or {})


# -- arguments ---------------------------------------------------------------------------


@dataclass(frozen=True)
class TensorArgument:
    """A Tensor whose record is `record`, address and stamp excepted; the program's input `input`, or None if unused.

    Where `array` is a dtype, a C-contiguous NumPy array of it and of the record's shape, aligned to `alignment` bytes,
    is as good. With a `twin` the argument must be the same object as the one at that earlier position.
    """

    layout: TensorLayout
    record: bytes
    input: int | None
    array: Any = None
    alignment: int = 16
    twin: int | None = None


@dataclass(frozen=True)
class AnyTensor:
    """A Tensor with a record whose type the caller has checked already."""

    layout: TensorLayout
    input: int | None


@dataclass(frozen=True)
class Number:
    """A Python float (`float64` or `float32` in the program) or int (`int64`)."""

    kind: str
    input: int | None


@dataclass(frozen=True)
class Static:
    """The object itself; an int, float, str or bytes of the same type and value is as good."""

    value: object


@dataclass(frozen=True)
class Nest:
    """A tuple (of any class with a tuple's items), a list or a dict of exactly the type `kind`.

    Its `count` items are the arguments from position `first` on, behind those of the call; a dict's have these `keys`, in order.
    """

    kind: type
    count: int
    first: int
    keys: tuple[object, ...] = ()


Argument = TensorArgument | AnyTensor | Number | Static | Nest

# -- results -----------------------------------------------------------------------------


@dataclass(frozen=True)
class TensorResult:
    """A new Tensor over the program's output `output`, with this record (address and stamp excepted) and slots."""

    layout: TensorLayout
    record: bytes
    output: int
    slots: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class ObjectResult:
    """An object that exists already, such as a Tensor over a state or a static value."""

    value: object


@dataclass(frozen=True)
class SharedResult:
    """The same object as an earlier result."""

    position: int


Result = TensorResult | ObjectResult | SharedResult


class Variant:
    """One signature of a call with the executable that serves it.

    `arguments` are the positional ones followed by those of `keywords`, in that order, then what lies in nests. `tree`
    is how results are returned: `none`, `single`, `tuple`, `list`, or `unflatten`, where the
    callable of that name gets a tuple of all results, or `finish`, where it gets the arguments, too. `fail` is called with the error word
    when a data-dependent check failed and raises. Every output of the program is a result.
    A call whose arguments lie in one of the spans `written` is not served.
    """

    def __init__(
        self,
        executable: Executable,
        binding: Binding,
        arguments: Sequence[Argument],
        results: Sequence[Result],
        *,
        fail: Callable[[int], object],
        epoch: int,
        grad_mode: int = 1,
        keywords: Sequence[str] = (),
        tree: str = "tuple",
        unflatten: Callable[..., object] | None = None,
        written: Sequence[tuple[int, int]] = (),
    ) -> None:
        if tree == "single" and len(results) != 1:
            raise ValueError(f"a single result, but {len(results)} are given")
        if (tree in ("unflatten", "finish")) != (unflatten is not None):
            raise ValueError("unflatten is given exactly where tree is 'unflatten' or 'finish'")
        self.executable = executable
        self._check_inputs(arguments)
        self._check_outputs(results)
        names = _interned(keywords)
        inner = sum(a.count for a in arguments if isinstance(a, Nest))
        nested = any(isinstance(a, Nest) for a in arguments)
        keyword_words = Words([id(name) for name in names], keep=names)
        self._signatures: list[Words] = []
        argument_words = words([self._argument(a) for a in arguments], keep=tuple(arguments))
        self._result_keep: list[object] = []
        result_words = words([self._result(r) for r in results], keep=tuple(results))
        self._record = Words(
            VARIANT.pack(
                epoch=epoch,
                grad_mode=grad_mode,
                argument_count=len(arguments) - inner,
                keyword_count=len(names),
                keywords=keyword_words.address,
                arguments=argument_words.address,
                executable=executable.address,
                result_count=len(results),
                results=result_words.address,
                tree=TREES.index(tree),
                unflatten=id(unflatten),
                fail=id(fail),
                object=id(self),
                leaf_count=len(arguments) if nested else 0,
            ),
            keep=(keyword_words, argument_words, result_words, unflatten, fail),
        )
        self.rebind(binding, written)

    @property
    def address(self) -> int:
        """Address of the native record."""
        return self._record.address

    @property
    def calls(self) -> int:
        """How many native calls this variant has served."""
        return self._record[VARIANT.offset["calls"]]

    @property
    def epoch(self) -> int:
        """The mutation epoch in which this variant was found valid; a call in another one is slow."""
        return self._record[VARIANT.offset["epoch"]]

    @epoch.setter
    def epoch(self, value: int) -> None:
        self._record[VARIANT.offset["epoch"]] = value

    def rebind(self, binding: Binding, written: Sequence[tuple[int, int]] = ()) -> None:
        """Uses other state addresses from the next call on; `written` are the spans of memory that it writes."""
        self.binding = binding
        self._written = Words([word for span in written for word in span])
        self._record[VARIANT.offset["written"]] = self._written.address
        self._record[VARIANT.offset["written_count"]] = len(written)
        self._record[VARIANT.offset["binding"]] = binding.address
        self._record[VARIANT.offset["binding_object"]] = id(binding)

    def link(self, following: Variant | None) -> None:
        """Sets which variant is tried when this one does not match."""
        self._record[VARIANT.offset["next"]] = 0 if following is None else following.address

    def _check_inputs(self, arguments: Sequence[Argument]) -> None:
        given = sorted(
            a.input for a in arguments if not isinstance(a, (Static, Nest)) and a.input is not None
        )
        if given != list(range(len(self.executable.rows["input"]))):
            raise ValueError(f"arguments are inputs {given}; the program has {self.executable.rows['input']}")

    def _check_outputs(self, results: Sequence[Result]) -> None:
        given = sorted(r.output for r in results if isinstance(r, TensorResult))
        if given != list(range(len(self.executable.rows["output"]))):
            raise ValueError(f"results are outputs {given}; the program has {self.executable.rows['output']}")
        for position, result in enumerate(results):
            if isinstance(result, SharedResult) and not 0 <= result.position < position:
                raise ValueError(
                    f"result {position} is the same as result {result.position}, which is not earlier"
                )

    def _argument(self, argument: Argument) -> list[int]:
        kinds = ARGUMENT_KINDS.index
        match argument:
            case Static(value):
                kind = "equal" if type(value) in (int, float, str, bytes) else "same"
                return ARGUMENT.pack(kind=kinds(kind), expected=id(value), row=-1)
            case Nest(type_, count, first, keys):
                words_of_keys = Words([id(k) for k in keys])
                self._signatures.append(words_of_keys)
                base = next(b for b in (tuple, list, dict) if issubclass(type_, b))
                return ARGUMENT.pack(
                    kind=kinds(base.__name__),
                    expected=id(type_),
                    signature=words_of_keys.address,
                    signature_words=count,
                    slot=first,
                    row=-1,
                )
            case TensorArgument(layout, record, position, array, alignment, twin):
                signature = Words(struct.unpack(f"={len(record) // 8 - 2}q", record[16:]))
                self._signatures.append(signature)
                return self._tensor(
                    layout,
                    position,
                    kind=kinds("tensor"),
                    signature=signature.address,
                    signature_words=len(record) // 8 - 2,
                    nbytes=signature[0],
                    mask=alignment - 1,
                    array=0 if array is None else id(np.dtype(array)),
                    twin=0 if twin is None else twin + 1,
                )
            case AnyTensor(layout, position):
                return self._tensor(layout, position, kind=kinds("any_tensor"))
            case Number(kind, position):
                expected = int if kind == "int64" else float
                return self._input(position, kind=kinds(kind), expected=id(expected))

    def _tensor(self, layout: TensorLayout, position: int | None, **fields: int) -> list[int]:
        return self._input(
            position,
            expected=id(layout.cls),
            alternative=id(layout.also),
            record_offset=layout.record,
            owner_offset=layout.owner,
            **fields,
        )

    def _input(self, position: int | None, **fields: int) -> list[int]:
        """An argument's record with the row of its input; -1 where the program does not read it."""
        row = -1 if position is None else self.executable.rows["input"][position]
        return ARGUMENT.pack(row=row, slot=position or 0, **fields)

    def _result(self, result: Result) -> list[int]:
        kinds = RESULT_KINDS.index
        match result:
            case ObjectResult(value):
                return OUTPUT.pack(kind=kinds("object"), object=id(value))
            case SharedResult(position):
                return OUTPUT.pack(kind=kinds("shared"), row=position)
            case TensorResult(layout, record, output, slots):
                objects = {**layout.defaults, **slots}
                record_words = Words(struct.unpack(f"={len(record) // 8}q", record))
                slot_words = words(
                    [SLOT.pack(offset=layout.offsets[n], object=id(value)) for n, value in objects.items()],
                    keep=tuple(objects.values()),
                )
                self._result_keep += [record_words, slot_words]
                (nbytes,) = struct.unpack_from("=q", record, 16)
                return OUTPUT.pack(
                    kind=kinds("tensor"),
                    row=self.executable.rows["output"][output],
                    nbytes=nbytes,
                    record=record_words.address,
                    record_bytes=len(record),
                    type=id(layout.cls),
                    record_offset=layout.record,
                    owner_offset=layout.owner,
                    slots=slot_words.address,
                    slot_count=len(objects),
                )


class _Self(ctypes.c_int64 * DISPATCHER.size):  # type: ignore[misc]
    """What the builtin is bound to: a native record that also keeps Python objects alive."""

    keep: tuple[object, ...]


MISSED = object()
"""What `Dispatcher.attempt` gives where no variant serves the call."""


def _missed(*args: Any, **kwargs: Any) -> object:
    return MISSED


class Dispatcher:
    """A builtin function over a list of variants; `slow` serves every other call.

    `function(*args, **kwargs)` is the builtin itself: as `__call__` of a class it costs no
    Python frame. It is made when it is first asked for, which loads the native run time.
    """

    def __init__(self, slow: Callable[..., Any], name: str = "call") -> None:
        self._self, self._again = _Self(), _Self()
        self._self[DISPATCHER.offset["slow"]] = id(slow)
        self._again[DISPATCHER.offset["slow"]] = id(_missed)
        self.slow = slow
        self._variants: tuple[Variant, ...] = ()
        self._name = name
        self.set_variants(())

    @functools.cached_property
    def function(self) -> Callable[..., Any]:
        """The builtin."""
        made: Callable[..., Any] = host().builtin("entry", self._name, _METH_FASTCALL_KEYWORDS, self._self)
        return made

    @functools.cached_property
    def attempt(self) -> Callable[..., Any]:
        """As `function`, but a call that no variant serves gives `MISSED`."""
        made: Callable[..., Any] = host().builtin("entry", self._name, _METH_FASTCALL_KEYWORDS, self._again)
        return made

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Variants in the order in which they are tried."""
        return self._variants

    def set_variants(self, variants: Sequence[Variant]) -> None:
        """Replaces the list of variants."""
        for position, variant in enumerate(variants, 1):
            variant.link(variants[position] if position < len(variants) else None)
        self._variants = tuple(variants)
        for record in (self._self, self._again):
            record[DISPATCHER.offset["variants"]] = variants[0].address if variants else 0
            record.keep = (self.slow, self._variants)


def _interned(names: Sequence[str]) -> tuple[str, ...]:
    """Keyword names as the interpreter passes them: interned."""
    return tuple(sys.intern(name) for name in names)
