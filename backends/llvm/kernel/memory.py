"""Loads and stores of a kernel body; never out of bounds.

Lanes whose places differ by constants are moved as a few vectors and shuffled into order; other
lanes go one by one. A lane that is not active or whose guards fail reads nothing outside its
buffer and stores nothing. Where the target cannot mask in one instruction, a constant number of
lanes is moved in pieces of powers of two and a run-time mask by a branch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.backends.llvm.kernel.scalar_ops import apply
from graphc.backends.llvm.kernel.scope import Condition, Scope, is_multiple
from graphc.backends.llvm.kernel.values import from_memory, memory_type, to_memory
from graphc.backends.llvm.text import Builder, Val, element, lanes, vector
from graphc.ir.dims import Dim, bounds
from graphc.ir.kernel import Instruction
from graphc.ir.types import DType

__all__ = ["fetch", "load", "store"]

_LEAST_STREAMED = 16
"""Least bytes of a vector that is stored past the caches."""

_LINE_BYTES = 64

_SPAN_VECTORS = 4
"""Lanes spread over up to this many vectors are loaded as vectors."""


class _Place:
    """Where an access goes: buffer address, element offset of lane 0, and the lanes' distances from it."""

    def __init__(self, scope: Scope, instruction: Instruction) -> None:
        space = scope.space
        buffer = space.kernel.buffers[instruction.buffer]
        self.scope = scope
        self.builder = scope.builder
        self.dtype: DType = buffer.type.dtype
        self.memory = memory_type(self.dtype)
        self.align = self.dtype.itemsize
        self.base = space.pointers[instruction.buffer]
        self.empty = buffer.type.count == 0
        self.numel = bounds(buffer.type.count)[0] or 0
        """How many elements there are at least."""
        self.offset: Dim = scope.simple(space.offset(instruction.buffer, instruction.index))
        self.lanes = scope.offsets(self.offset)
        self.copies = space.local_lanes if buffer.access == "local" else 1
        """Above 1, every lane has its own element where others have one."""
        if self.copies > 1:
            self.numel *= self.copies
            self.lanes = (
                None if self.lanes is None else tuple(x * self.copies + i for i, x in enumerate(self.lanes))
            )
        self.type = vector(self.memory, scope.width)
        self.streamed = instruction.buffer in space.streamed and self._fills_registers()

    @property
    def vector_bytes(self) -> int:
        """Bytes of the whole registers that a streamed vector is stored from."""
        return min(self.builder.target.vector_bytes, self.scope.width * self.align)

    def _fills_registers(self) -> bool:
        """True where the lanes are neighbours from a multiple of the register's bytes on."""
        lane = self.scope.lane
        if lane is None or not self.contiguous or self.scope.width * self.align < _LEAST_STREAMED:
            return False
        forms = lane.forms(self.offset)
        return forms is not None and is_multiple(forms[0], self.vector_bytes // self.align)

    def fix(self) -> None:
        """Computes the offsets here, so that they are known in every block that follows."""
        self.scope.dim(self.offset * self.copies)
        self.scope = self.scope.child()

    @property
    def same(self) -> bool:
        """True where all lanes are one element."""
        return self.lanes is not None and not any(self.lanes)

    @property
    def contiguous(self) -> bool:
        """True where the lanes stand side by side, first lane first."""
        return self.lanes == tuple(range(self.scope.width))

    def address(self, shift: int = 0) -> Val:
        """Address of lane 0, `shift` elements further."""
        if isinstance(self.offset, int):
            return self.builder.gep(self.base, self.offset * self.copies + shift, self.memory)
        at = self.scope.dim(self.offset * self.copies)
        return self.builder.gep(self.builder.gep(self.base, at, self.memory), shift, self.memory)

    def lane_addresses(self, real: Sequence[int], mask: Val | None) -> dict[int, Val]:
        """The address of each lane in `real`; that of element 0 where the mask is clear."""
        b, scope = self.builder, self.scope
        if self.lanes is not None and mask is None:
            return {i: self.address(self.lanes[i]) for i in real}
        offsets = scope.lane_dims(self.offset)
        if self.copies > 1:
            own = b.vector_literal(element(offsets.type), [str(i) for i in range(scope.width)])
            offsets = b.add(b.mul(offsets, b.const(offsets.type, self.copies)), own)
        if mask is not None:
            offsets = b.select(mask, offsets, b.const(offsets.type, 0))
        found = {}
        for i in real:
            at = b.extract(offsets, i)
            found[i] = b.gep(self.base, at if at.type == "i64" else b.cast("sext", at, "i64"), self.memory)
        return found


def _native_mask(b: Builder, memory: str) -> bool:
    """True where the target masks elements of this type in one instruction."""
    wide = memory in ("float", "double", "i32", "i64")
    return b.target.has_masks and (wide or b.target.vector_bytes >= 64)


def _and(b: Builder, x: Val | None, y: Val | None) -> Val | None:
    if x is None or y is None:
        return y if x is None else x
    width = max(lanes(x.type), lanes(y.type))
    return b.and_(b.splat(x, width), b.splat(y, width))


def _bits(b: Builder, chosen: Sequence[bool]) -> Val:
    return b.vector_literal("i1", ["true" if c else "false" for c in chosen])


def _real(scope: Scope, condition: Condition) -> list[int]:
    """The lanes that may do something."""
    return [i for i in range(scope.active) if condition.lanes is None or condition.lanes[i]]


# -- loads ----------------------------------------------------------------------------


def load(scope: Scope, instruction: Instruction) -> Val:
    """The carried value of a load, one scalar where all lanes read the same element."""
    b = scope.builder
    condition = scope.guard(instruction.guards)
    fill = scope.value(instruction.operands[0]) if instruction.operands else None
    place = _Place(scope, instruction)
    if not condition.possible or place.empty:
        assert fill is not None, "a load from an empty buffer needs a guard"
        return fill
    holds = _and(b, condition.uniform, condition.varying)
    if condition.lanes is not None:
        holds = _and(b, holds, _bits(b, condition.lanes))
    if place.same and condition.varying is None:
        value = from_memory(b, place.dtype, _load_scalar(place, condition.uniform))
    else:
        value = from_memory(b, place.dtype, _load_lanes(place, condition))
    if holds is None:
        return value
    assert fill is not None
    width = max(lanes(x.type) for x in (value, fill, holds))
    return b.select(holds, b.splat(value, width), b.splat(fill, width))


def _load_scalar(place: _Place, uniform: Val | None) -> Val:
    b = place.builder
    address = place.address()
    if uniform is not None:
        address = b.select(uniform, address, place.base)
    return b.load(place.memory, address, place.align)


def _load_lanes(place: _Place, condition: Condition) -> Val:
    b, scope = place.builder, place.scope
    real = _real(scope, condition)
    mask = _and(b, condition.varying, None if place.copies > 1 else scope.mask)
    if place.lanes is not None:
        low, high = min(place.lanes[i] for i in real), max(place.lanes[i] for i in real)
        if high - low < _SPAN_VECTORS * scope.width and (
            condition.uniform is None or place.numel > high - low
        ):
            if mask is None:
                return _load_span(place, real, low, high, condition.uniform)
            if place.contiguous and _native_mask(b, place.memory):
                mask = _and(b, mask, _lanes_mask(place, real)) or mask
                return _load_masked(place, low, mask, condition.uniform)
            return _load_branching(place, real, low, high, mask, condition.uniform)
    return _load_scattered(place, real, _and(b, mask, condition.uniform))


def _load_scattered(place: _Place, real: Sequence[int], mask: Val | None) -> Val:
    """Lane by lane; lanes whose mask is clear read element 0."""
    b = place.builder
    result = b.const(place.type, 0)
    wide = None if mask is None else b.splat(mask, place.scope.width)
    for i, address in place.lane_addresses(real, wide).items():
        result = b.insert(result, b.load(place.memory, address, place.align), i)
    return result


def _load_branching(
    place: _Place, real: Sequence[int], low: int, high: int, mask: Val, uniform: Val | None
) -> Val:
    """A run-time mask where the target has no masked load: vectors where no real lane is masked."""
    b = place.builder
    idle = _lanes_mask(place, real)
    needed = mask if idle is None else b.or_(mask, b.xor(idle, b.const(idle.type, True)))
    every = b.intrinsic("vector.reduce.and", "i1", [needed], overload=needed.type)
    place.fix()
    whole, piecewise, done = b.label("whole"), b.label("lanes"), b.label("loaded")
    b.branch_if(every, whole, piecewise)
    b.block(whole)
    vectors = _load_span(place, real, low, high, uniform)
    b.branch(done)
    b.block(piecewise)
    single = _load_scattered(place, real, _and(b, mask, uniform))
    b.branch(done)
    b.block(done)
    return b.op(place.type, f"phi {place.type} [ {vectors.text}, %{whole} ], [ {single.text}, %{piecewise} ]")


def _lanes_mask(place: _Place, real: Sequence[int]) -> Val | None:
    if len(real) == place.scope.width:
        return None
    return _bits(place.builder, [i in real for i in range(place.scope.width)])


def _load_span(place: _Place, real: Sequence[int], low: int, high: int, uniform: Val | None) -> Val:
    """Lanes at constant distances, all elements from `low` to `high` of which are in the buffer."""
    b, width = place.builder, place.scope.width
    assert place.lanes is not None
    address = place.address(low)
    if uniform is not None:
        # Any place with as many elements after it will do where the guard fails.
        address = b.select(uniform, address, place.base)
    size = high - low + 1
    if size < width:
        parts = [(0, _load_first(place, address, size))]
    else:
        starts = [*range(0, size - width, width), size - width]
        parts = [(s, b.load(place.type, b.gep(address, s, place.memory), place.align)) for s in starts]
    result: Val | None = None
    taken: set[int] = set()
    for start, part in parts:
        chosen = {i: place.lanes[i] - low - start for i in real if i not in taken}
        chosen = {i: at for i, at in chosen.items() if 0 <= at < width}
        if result is None:
            result = _spread(b, part, [chosen.get(i, -1) for i in range(width)])
        elif chosen:
            order = [width + chosen[i] if i in chosen else i if i in taken else -1 for i in range(width)]
            result = b.shuffle(result, part, order)
        taken |= set(chosen)
    assert result is not None
    return result


def _spread(b: Builder, part: Val, order: Sequence[int]) -> Val:
    """A vector's lanes in another order (-1: any), itself where nothing moves."""
    if all(at in (i, -1) for i, at in enumerate(order)):
        return part
    return b.shuffle(part, None, order)


def _load_first(place: _Place, address: Val, size: int) -> Val:
    """`size` neighbouring elements in the first lanes of a vector."""
    b, width = place.builder, place.scope.width
    if size & (size - 1) == 0:
        part = b.load(vector(place.memory, size), address, place.align)
        return b.insert(b.const(place.type, 0), part, 0) if size == 1 else _widened(b, part, width)
    if _native_mask(b, place.memory):
        mask = _bits(b, [i < size for i in range(width)])
        return b.masked_load(place.type, address, mask, b.const(place.type, 0), place.align)
    result, at = b.const(place.type, 0), 0
    while at < size:
        length = 1 << ((size - at).bit_length() - 1)
        part = b.load(vector(place.memory, length), b.gep(address, at, place.memory), place.align)
        if length == 1:
            result = b.insert(result, part, at)
        else:
            spread = b.shuffle(part, None, [i - at if at <= i < at + length else -1 for i in range(width)])
            result = b.shuffle(
                result, spread, [width + i if at <= i < at + length else i for i in range(width)]
            )
        at += length
    return result


def _widened(b: Builder, part: Val, width: int) -> Val:
    """A shorter vector in the first lanes; zeros after it."""
    size = lanes(part.type)
    zero = b.const(part.type, 0)
    return b.shuffle(part, zero, [min(i, size) for i in range(width)])


def _load_masked(place: _Place, low: int, mask: Val, uniform: Val | None) -> Val:
    """Neighbouring elements where a run-time mask is set, of lanes from `low` on."""
    b = place.builder
    address = place.address()
    if uniform is not None:
        address = b.select(uniform, address, b.gep(place.base, -low, place.memory))
    return b.masked_load(place.type, address, mask, b.const(place.type, 0), place.align)


def fetch(scope: Scope, instruction: Instruction, ahead: int) -> None:
    """Asks for the cache lines `ahead` elements after those that a load of neighbouring lanes reads, or a store writes.

    Nothing is asked for where the store goes past the caches.
    """
    place = _Place(scope, instruction)
    lines = max(1, scope.width * place.align // _LINE_BYTES)
    write = instruction.opcode == "store"
    if write and instruction.buffer in scope.space.streamed:
        return
    for n in range(lines):
        scope.builder.prefetch(place.address(ahead + n * _LINE_BYTES // place.align), write=write)


# -- stores ---------------------------------------------------------------------------


def store(scope: Scope, instruction: Instruction) -> None:
    """Stores a scalar, or adds it to the element where the instruction's value is `"add"`."""
    b = scope.builder
    condition = scope.guard(instruction.guards)
    value = scope.value(instruction.operands[0])
    add = instruction.value == "add"
    # What is computed under the branch must not be known to the scope after it.
    place = _Place(scope if condition.uniform is None else scope.child(), instruction)
    if not condition.possible or place.empty:
        return
    if condition.uniform is None:
        _store(place, value, condition, add)
        return
    with b.if_(condition.uniform):
        _store(place, value, condition, add)


def _store(place: _Place, value: Val, condition: Condition, add: bool) -> None:
    b, scope = place.builder, place.scope
    if scope.width == 1:
        _store_at(place, place.address(), value, add)
        return
    if place.copies > 1 and place.contiguous and condition.varying is None:
        # Every lane has its own copy, the inactive ones too.
        _store_at(place, place.address(), b.splat(value, scope.width), add)
        return
    mask = _and(b, condition.varying, scope.mask)
    real = _real(scope, condition)
    if not add and mask is None and place.same:
        _store_at(place, place.address(), b.extract(value, real[-1]), add)
        return
    wide = b.splat(value, scope.width)
    reverse = place.lanes == tuple(-i for i in range(scope.width))
    if reverse and mask is None and len(real) == scope.width:
        back = b.shuffle(wide, None, range(scope.width - 1, -1, -1))
        _store_at(place, place.address(1 - scope.width), back, add)
    elif place.contiguous and (mask is None or _native_mask(b, place.memory)):
        _store_run(place, wide, real, mask, add)
    else:
        addresses = place.lane_addresses(real, mask)
        _each_lane(b, mask, real, lambda i: _store_at(place, addresses[i], b.extract(wide, i), add))


def _store_at(place: _Place, address: Val, value: Val, add: bool) -> None:
    """One element, or a whole vector of neighbouring ones."""
    b, type_ = place.builder, vector(place.memory, lanes(value.type))
    if add:
        old = from_memory(b, place.dtype, b.load(type_, address, place.align))
        value = apply(b, "add", place.dtype, [old, value])
    stored = to_memory(b, place.dtype, value)
    if place.streamed and not add and lanes(value.type) == place.scope.width:
        b.store_past_caches(stored, address, place.vector_bytes)
    else:
        b.store(stored, address, place.align)


def _store_run(place: _Place, value: Val, real: Sequence[int], mask: Val | None, add: bool) -> None:
    """Neighbouring lanes: whole, masked, or in pieces of powers of two."""
    b, width = place.builder, place.scope.width
    if mask is None and len(real) == width:
        _store_at(place, place.address(), value, add)
        return
    if not _native_mask(b, place.memory):
        for start, length in _pieces(real):
            part = (
                b.extract(value, start)
                if length == 1
                else b.shuffle(value, None, range(start, start + length))
            )
            _store_at(place, place.address(start), part, add)
        return
    mask = _and(b, mask, _lanes_mask(place, real))
    assert mask is not None
    if add:
        old = b.masked_load(place.type, place.address(), mask, b.const(place.type, 0), place.align)
        value = apply(b, "add", place.dtype, [from_memory(b, place.dtype, old), value])
    b.masked_store(to_memory(b, place.dtype, value), place.address(), mask, place.align)


def _pieces(real: Sequence[int]) -> list[tuple[int, int]]:
    """Lane numbers as runs (start, length) whose lengths are powers of two."""
    found: list[tuple[int, int]] = []
    at = 0
    while at < len(real):
        end = at
        while end + 1 < len(real) and real[end + 1] == real[end] + 1:
            end += 1
        length = 1 << ((end - at + 1).bit_length() - 1)
        found.append((real[at], length))
        at += length
    return found


def _each_lane(b: Builder, mask: Val | None, real: Sequence[int], emit: Callable[[int], None]) -> None:
    """Lane by lane in order, so that lanes which meet are added in order."""
    for i in real:
        if mask is None:
            emit(i)
        else:
            with b.if_(b.extract(mask, i)):
                emit(i)
