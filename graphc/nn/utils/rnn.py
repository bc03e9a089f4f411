"""Sequences of different lengths: padding, packing, and back.

A packed sequence holds the steps of all sequences without padding, the longest sequence first: the rows of
time step 0, then of step 1, and so on. Lengths are plain numbers here, never values of a program: they say
which program is made, so a compiled function is compiled once for each set of lengths.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from graphc.core.tensor import TensorBase
from graphc.functions import creation, indexing, pointwise, shape
from graphc.ir.types import int64
from graphc.tensor_class import Tensor

__all__ = [
    "PackedSequence",
    "Packing",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]


@dataclasses.dataclass(frozen=True, slots=True)
class Packing:
    """Which row of packed data is which step of which sequence.

    `sizes` counts the sequences that are longer than each step, `order` names the sequences from the longest
    to the shortest (None where they stand so).
    """

    sizes: tuple[int, ...]
    order: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        falling = all(a >= b for a, b in zip(self.sizes, self.sizes[1:], strict=False))
        if not self.sizes or self.sizes[-1] <= 0 or not falling:
            raise RuntimeError(
                f"batch_sizes must be positive and never rise, as pack_padded_sequence makes them, got {list(self.sizes)}"
            )

    @property
    def rows(self) -> int:
        """How many rows packed data has."""
        return sum(self.sizes)

    def mask(self) -> np.ndarray[Any, Any]:
        """[time, batch] bool: whether a sequence (longest first) is that long."""
        return np.arange(self.sizes[0]) < np.array(self.sizes)[:, None]

    def lengths(self) -> np.ndarray[Any, Any]:
        """[batch] the length of each sequence, longest first."""
        counted: np.ndarray[Any, Any] = self.mask().sum(axis=0)
        return counted

    def places(self) -> np.ndarray[Any, Any]:
        """[time, batch] the row in packed data; 0 where the sequence is over."""
        starts = np.concatenate(([0], np.cumsum(self.sizes)[:-1]))
        return np.where(self.mask(), starts[:, None] + np.arange(self.sizes[0]), 0)

    def inverse(self) -> tuple[int, ...] | None:
        """Where in `order` each sequence stands."""
        return None if self.order is None else tuple(int(i) for i in np.argsort(self.order))


def _numbers(value: Any) -> tuple[int, ...]:
    """Whole numbers of a Tensor, array or sequence."""
    array = value.numpy() if isinstance(value, TensorBase) else np.asarray(value)
    return tuple(int(i) for i in array.astype(np.int64).ravel())


def _indices(values: Sequence[int] | None) -> Any:
    return None if values is None else creation.tensor(list(values), dtype=int64)


class _Fields(NamedTuple):
    data: Any
    batch_sizes: Any
    sorted_indices: Any
    unsorted_indices: Any


class PackedSequence(_Fields):
    """Data [sum of lengths, ...] of sequences without padding, `batch_sizes` [longest length], and the
    permutations to and from the order by length. Made by `pack_padded_sequence` and `pack_sequence`."""

    def __new__(
        cls, data: Any, batch_sizes: Any = None, sorted_indices: Any = None, unsorted_indices: Any = None
    ) -> PackedSequence:
        if batch_sizes is None:
            if not isinstance(data, (list, tuple)) or len(data) != 2:
                raise AssertionError("Expected data to be a list or tuple of length 2")
            data, batch_sizes = data
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def packing(self) -> Packing:
        """The same numbers as plain ints. Raises RuntimeError for numbers that no packing has."""
        found: Packing | None = self.__dict__.get("_packing")
        if found is None:
            order = None if self.sorted_indices is None else _numbers(self.sorted_indices)
            found = self.__dict__["_packing"] = Packing(_numbers(self.batch_sizes), order)
        return found

    def with_data(self, data: Any) -> PackedSequence:
        """Other data, packed alike."""
        made = PackedSequence(data, self.batch_sizes, self.sorted_indices, self.unsorted_indices)
        made.__dict__["_packing"] = self.packing()
        return made

    def __flatten_nest__(self) -> tuple[Any, Packing]:
        return self.data, self.packing()

    @classmethod
    def __unflatten_nest__(cls, data: Any, packing: Packing) -> PackedSequence:
        made = cls(data, _indices(packing.sizes), _indices(packing.order), _indices(packing.inverse()))
        made.__dict__["_packing"] = packing
        return made

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """Data of another dtype; itself where nothing changes."""
        data = self.data.to(*args, **kwargs)
        return self if data is self.data else self.with_data(data)

    def cpu(self) -> PackedSequence:
        """Itself: everything is on the CPU."""
        return self

    def double(self) -> PackedSequence:
        """Data as float64."""
        return self.with_data(self.data.double())

    def float(self) -> PackedSequence:
        """Data as float32."""
        return self.with_data(self.data.float())

    def half(self) -> PackedSequence:
        """Data as float16."""
        return self.with_data(self.data.half())

    def long(self) -> PackedSequence:
        """Data as int64."""
        return self.with_data(self.data.long())

    def int(self) -> PackedSequence:
        """Data as int32."""
        return self.with_data(self.data.int())

    @property
    def is_cuda(self) -> bool:
        """False."""
        return False


def invert_permutation(permutation: Tensor | None) -> Any:
    """[n] a permutation to its inverse; None to None."""
    if permutation is None:
        return None
    places = creation.arange(permutation.numel(), dtype=permutation.dtype)
    return indexing.scatter(creation.zeros_like(permutation), 0, permutation, places)


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """[time, batch, ...] ([batch, time, ...] with `batch_first`) and the length of each sequence to packed data.

    With `enforce_sorted` the lengths must not rise; without, sequences are sorted and the permutation is kept.
    Raises RuntimeError for lengths that are not one for each sequence, or not between 1 and the padded length.
    """
    if isinstance(lengths, Tensor) and lengths.dim() != 1:
        raise RuntimeError(f"'lengths' argument should be a 1D CPU int64 tensor, but got {lengths.dim()}D")
    sizes = _numbers(lengths)
    if input.dim() < 2:
        raise IndexError(
            f"pack_padded_sequence: expected [time, batch, ...] or [batch, time, ...], got {input.dim()}-D"
        )
    x = shape.transpose(input, 0, 1) if batch_first else input
    if x.numel() == 0:
        raise RuntimeError("Cannot pack empty tensors.")
    if len(sizes) != x.shape[1]:
        raise RuntimeError(
            f"Expected `len(lengths)` to be equal to batch_size, but got {len(sizes)} (batch_size={int(x.shape[1])})"
        )
    if min(sizes) <= 0:
        raise RuntimeError(
            "Length of all samples has to be greater than 0, but found an element in 'lengths' that is <= 0"
        )
    if max(sizes) > x.shape[0]:
        raise RuntimeError(
            f"pack_padded_sequence: a length is {max(sizes)}, but input has {int(x.shape[0])} steps"
        )
    order = None
    if not enforce_sorted:
        order = tuple(int(i) for i in np.argsort(-np.array(sizes), kind="stable"))
        x = indexing.index_select(x, 1, _indices(order))
        sizes = tuple(sizes[i] for i in order)
    elif list(sizes) != sorted(sizes, reverse=True):
        raise RuntimeError(
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. You can pass "
            "`enforce_sorted=False` to pack_padded_sequence and/or pack_sequence"
        )
    counts = tuple(sum(1 for s in sizes if s > step) for step in range(sizes[0]))
    packing = Packing(counts, order)
    return PackedSequence.__unflatten_nest__(packed_rows(x, packing), packing)


def packed_rows(x: Any, packing: Packing) -> Any:
    """[time, batch, ...], longest first, to packed data."""
    rows = np.flatnonzero(packing.mask())
    batch = int(x.shape[1])
    at = [int(r // packing.sizes[0] * batch + r % packing.sizes[0]) for r in rows]
    return indexing.index_select(shape.flatten(x, 0, 1), 0, _indices(at))


def padded_rows(data: Any, packing: Packing) -> Any:
    """Packed data to [time, batch, ...], longest first; what stands where a sequence is over is any row."""
    places = packing.places()
    rows = indexing.index_select(data, 0, _indices([int(i) for i in places.ravel()]))
    return shape.reshape(rows, (*places.shape, *data.shape[1:]))


def mask_of(packing: Packing, rank: int) -> Any:
    """[time, batch, 1, …] bool of `rank`: whether a sequence (longest first) is that long."""
    mask = packing.mask()
    return creation.tensor(mask.reshape(mask.shape + (1,) * (rank - 2)))


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Any, Any]:
    """Packed data to [time, batch, ...] ([batch, time, ...] with `batch_first`) and the lengths [batch].

    `padding_value` stands where a sequence is over. Raises ValueError where `total_length` is less than the
    longest length.
    """
    packing = sequence.packing()
    steps = len(packing.sizes)
    if total_length is not None and total_length < steps:
        raise ValueError(
            "Expected total_length to be at least the length of the longest sequence in input, but got "
            f"total_length={total_length} and max sequence length being {steps}"
        )
    _check_rows(sequence.data, packing)
    padded = padded_rows(sequence.data, packing)
    if min(packing.sizes) < packing.sizes[0]:
        filler = creation.full((), padding_value, dtype=padded.dtype)
        padded = pointwise.where(mask_of(packing, padded.dim()), padded, filler)
    if total_length is not None and total_length > steps:
        more = (total_length - steps, *padded.shape[1:])
        padded = shape.cat([padded, creation.full(more, padding_value, dtype=padded.dtype)], 0)
    lengths, back = packing.lengths(), packing.inverse()
    if back is not None:
        padded = indexing.index_select(padded, 1, _indices(back))
        lengths = lengths[list(back)]
    if batch_first:
        padded = shape.transpose(padded, 0, 1)
    return padded, creation.tensor(lengths.astype(np.int64))


def _check_rows(data: Any, packing: Packing) -> None:
    if data.dim() < 1 or data.shape[0] != packing.rows:
        raise RuntimeError(
            f"packed data of shape {list(data.shape)} does not fit batch_sizes with a sum of {packing.rows}"
        )


def pad_sequence(
    sequences: Tensor | Iterable[Tensor],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Any:
    """Sequences [length, ...] to one Tensor [longest length, batch, ...] ([batch, longest length, ...] with
    `batch_first`), with `padding_value` after ("right") or before ("left") the shorter ones."""
    if padding_side not in ("left", "right"):
        raise RuntimeError(f"Expected padding_side to be one of left or right, but got {padding_side}.")
    if not isinstance(sequences, Iterable):
        raise RuntimeError(
            f"pad_sequence: Expected iterable for input sequences, but got arg of type: {type(sequences)}"
        )
    items = list(sequences)
    if not items:
        raise RuntimeError("received an empty list of sequences")
    tails = {tuple(x.shape[1:]) for x in items}
    if len(tails) > 1 or any(x.dim() == 0 for x in items):
        raise RuntimeError(
            f"pad_sequence: sequences must agree in all but their first size, got {[list(x.shape) for x in items]}"
        )
    longest = max(int(x.shape[0]) for x in items)
    padded = []
    for x in items:
        missing = longest - int(x.shape[0])
        if missing:
            filler = creation.full((missing, *x.shape[1:]), padding_value, dtype=x.dtype)
            x = shape.cat([x, filler] if padding_side == "right" else [filler, x], 0)
        padded.append(x)
    return shape.stack(padded, 0 if batch_first else 1)


def unpad_sequence(padded_sequences: Tensor, lengths: Any, batch_first: bool = False) -> list[Any]:
    """The inverse of `pad_sequence`: a list of sequences without padding."""
    x = padded_sequences if batch_first else shape.transpose(padded_sequences, 0, 1)
    return [x[i, :length] for i, length in enumerate(_numbers(lengths))]


def pack_sequence(sequences: list[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Sequences [length, ...] to packed data; see `pack_padded_sequence`."""
    lengths = [int(x.shape[0]) for x in sequences]
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Any]:
    """The inverse of `pack_sequence`."""
    padded, _ = pad_packed_sequence(packed_sequences, batch_first=True)
    packing = packed_sequences.packing()
    back = packing.inverse()
    lengths = packing.lengths()
    return unpad_sequence(padded, lengths if back is None else lengths[list(back)], batch_first=True)
