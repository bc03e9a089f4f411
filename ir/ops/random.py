"""Random numbers: pure functions of a generator state, an offset, and the element's row-major number.

The state is int64[2] = (seed, base). Element i uses counter base + offset + i, so an op of n elements
takes n counters and never depends on how it is computed; see `graphc.ir.ops.philox`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from graphc.ir.dims import Dim
from graphc.ir.families import FLOATS, Attrs, Index, Random, Read, Sample, Types
from graphc.ir.ops.philox import philox, philox_reference
from graphc.ir.scalar import ScalarBuilder, Term
from graphc.ir.types import DTYPES, DType, TensorType, bfloat16, float16, float32, float64, int32, int64

__all__ = ["RandomBits", "RandomInt", "RandomNormal", "RandomUniform"]

SHAPES: tuple[tuple[int, ...], ...] = ((3, 5), (1,), (0, 4), (), (67,))
STATE = TensorType(int64, (2,))
UNIFORM_BITS = {float16: 11, bfloat16: 8, float32: 24, float64: 53}
"""Random bits of a uniform number: as many as the dtype's significand holds."""


class Drawn(Random):
    """Base: numbers of `shape` and `dtype` from a state; element i takes counter base + `offset` + i."""

    operand_names = ("state",)
    attributes: ClassVar[dict[str, Any]] = {"shape": ..., "offset": 0, "dtype": ...}
    traits = frozenset({"random"})
    no_derivative = "the operand is the integer state of a generator"

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if types[0] != STATE:
            raise RuntimeError(f"{cls.name}: expected a generator state {STATE}, got {types[0]}")
        if attrs["dtype"].name not in cls.dtypes:
            raise NotImplementedError(f'"{cls.name}" not implemented for {attrs["dtype"]}')
        return (TensorType(attrs["dtype"], attrs["shape"]),)

    @classmethod
    def from_words(cls, words: Sequence[Term], attrs: Attrs) -> Any:
        """The element's scalar from its four words."""
        raise NotImplementedError

    @classmethod
    def point(
        cls,
        s: ScalarBuilder[Any],
        attrs: Attrs,
        types: Types,
        result: TensorType,
        index: Index,
        reads: Sequence[Read[Any]],
    ) -> Any:
        number: Dim = 0
        for i, d in zip(index, result.shape, strict=True):
            number = number * d + i
        seed, base = (Term(s, reads[0]((k,))) for k in (0, 1))
        counter = base + Term(s, s.index(number + attrs["offset"], int64))
        return cls.from_words(philox(seed, counter), attrs)

    @classmethod
    def from_reference(cls, words: Any, attrs: Attrs) -> Any:
        """Elements in NumPy from uint32 words [4, n]."""
        raise NotImplementedError

    @classmethod
    def reference(cls, attrs: Attrs, *arrays: Any) -> Any:
        shape, (seed, base) = attrs["shape"], arrays[0].tolist()
        count = math.prod(shape)
        words = philox_reference(seed, base + attrs["offset"], count)
        return np.asarray(cls.from_reference(words, attrs)).astype(attrs["dtype"].numpy).reshape(shape)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        for name in cls.dtypes:
            for shape in SHAPES:
                for offset in (0, 1000):
                    attrs = {**cls.attributes, "shape": shape, "offset": offset, "dtype": DTYPES[name]}
                    yield Sample((STATE,), attrs, ("index:1000000",))


def _wide(word: Term) -> Term:
    """An int32 word's bits as a non-negative int64."""
    return Term(word.s, word.s.cast(word.value, int64)) & 0xFFFFFFFF


def _joined(words: Sequence[Term], bits: int) -> Term:
    """The leading `bits` bits (33 to 63) of two words as an int64."""
    low = _wide(words[1]) >> (64 - bits)
    return (_wide(words[0]) << (bits - 32)) | low


def _unit(words: Sequence[Term], dtype: DType, plus: int = 0) -> Term:
    """(the leading random bits + plus) / 2^bits in the dtype that `dtype` computes in."""
    bits, to = UNIFORM_BITS[dtype], dtype.accumulator
    whole = words[0] >> (32 - bits) if bits < 32 else _joined(words, bits)
    if plus:
        whole = whole + plus
    return Term(whole.s, whole.s.cast(whole.value, to)) * 2.0**-bits


def _unit_reference(words: Any, dtype: DType, plus: int = 0) -> Any:
    bits = UNIFORM_BITS[dtype]
    both = (words[0].astype(np.uint64) << np.uint64(32)) | words[1]
    whole = (both >> np.uint64(64 - bits)).astype(np.int64) + plus
    return (whole.astype(dtype.accumulator.numpy) * 2.0**-bits).astype(dtype.accumulator.numpy)


class RandomBits(Drawn):
    """Uniform bits: all of an int32, or of an int64 (the first word is the high half)."""

    name = "random_bits"
    dtypes = ("i32", "i64")

    @classmethod
    def from_words(cls, words: Sequence[Term], attrs: Attrs) -> Any:
        if attrs["dtype"] is int32:
            return words[0].value
        return ((_wide(words[0]) << 32) | _wide(words[1])).value

    @classmethod
    def from_reference(cls, words: Any, attrs: Attrs) -> Any:
        if attrs["dtype"] is int32:
            return words[0].view(np.int32)
        return ((words[0].astype(np.uint64) << np.uint64(32)) | words[1]).view(np.int64)


class RandomUniform(Drawn):
    """Uniform in [0, 1): k / 2^b with b random bits, 24 of float32, 53, 11 and 8 of float64, float16, bfloat16."""

    name = "random_uniform"
    dtypes = FLOATS

    @classmethod
    def from_words(cls, words: Sequence[Term], attrs: Attrs) -> Any:
        unit = _unit(words, attrs["dtype"])
        exact = attrs["dtype"].accumulator is attrs["dtype"]
        return unit.value if exact else unit.s.cast(unit.value, attrs["dtype"])

    @classmethod
    def from_reference(cls, words: Any, attrs: Attrs) -> Any:
        return _unit_reference(words, attrs["dtype"])


class RandomNormal(Drawn):
    """Standard normal by Box and Muller (1958): √(-2 log u) cos 2πv with u in (0, 1], v in [0, 1).

    16-bit floats are float32's numbers rounded.
    """

    name = "random_normal"
    dtypes = FLOATS
    ulp = {"f16": 1, "bf16": 1, "f32": 6, "f64": 6}

    @classmethod
    def from_words(cls, words: Sequence[Term], attrs: Attrs) -> Any:
        dtype = attrs["dtype"]
        drawn = dtype.accumulator
        # float64 numbers take two words each.
        u = _unit(words[:2], drawn, plus=1)
        v = _unit(words[2:], drawn)
        radius = (u.log() * -2.0).sqrt()
        normal = radius * (v * (2 * math.pi)).cos()
        return normal.value if drawn is dtype else normal.s.cast(normal.value, dtype)

    @classmethod
    def from_reference(cls, words: Any, attrs: Attrs) -> Any:
        drawn = attrs["dtype"].accumulator
        u, v = _unit_reference(words[:2], drawn, plus=1), _unit_reference(words[2:], drawn)
        precise = np.longdouble if drawn is float64 else np.float64
        # The angle is rounded as the op does: near a zero of the cosine its error would show.
        angle = (v * drawn.numpy.type(2 * math.pi)).astype(precise)
        return np.sqrt(-2 * np.log(u.astype(precise))) * np.cos(angle)


class RandomInt(Drawn):
    """Uniform integers in [low, high): low + ⌊word · n / 2³²⌋, or for n above 2³² low + (63 bits mod n)."""

    name = "random_int"
    attributes: ClassVar[dict[str, Any]] = {**Drawn.attributes, "low": ..., "high": ...}
    dtypes = ("i64",)

    @classmethod
    def infer(cls, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        if attrs["low"] >= attrs["high"]:
            raise RuntimeError(
                f"random_ expects 'from' to be less than 'to', but got from={attrs['low']} >= to={attrs['high']}"
            )
        if attrs["high"] - attrs["low"] > 1 << 63:
            raise RuntimeError(
                f"random_int: the range [{attrs['low']}, {attrs['high']}) holds more than 2^63 numbers"
            )
        return super().infer(types, attrs)

    @classmethod
    def from_words(cls, words: Sequence[Term], attrs: Attrs) -> Any:
        count = attrs["high"] - attrs["low"]
        if count <= 1 << 32:
            return ((_scaled(words[0], count)) + attrs["low"]).value
        bits = _joined(words, 63)
        return ((bits.rem(count) if count < 1 << 63 else bits) + attrs["low"]).value

    @classmethod
    def from_reference(cls, words: Any, attrs: Attrs) -> Any:
        count = attrs["high"] - attrs["low"]
        if count <= 1 << 32:
            chosen = (words[0].astype(object) * count) >> 32
        else:
            chosen = ((words[0].astype(object) << 31) | (words[1] >> np.uint32(1)).astype(object)) % count
        return (chosen + attrs["low"]).astype(np.int64)

    @classmethod
    def samples(cls) -> Iterator[Sample]:
        ranges = ((0, 10), (-5, 6), (0, 1), (0, 1 << 32), (-(1 << 40), 1 << 50))
        for sample in super().samples():
            for low, high in ranges:
                yield Sample(sample.operands, {**sample.attrs, "low": low, "high": high}, sample.draw)


def _scaled(word: Term, count: int) -> Term:
    """⌊word · count / 2³²⌋ as an int64, for the unsigned word."""
    if count == 1 << 32:
        return _wide(word)
    return _wide(word.mulhi(count - (1 << 32) if count >> 31 else count))
