"""Loads and stores of a kernel body: contiguous, reversed, broadcast or lane by lane; never out of bounds.

A lane that is not active or whose guards fail reads nothing outside its buffer and stores
nothing. Where the target cannot mask in one instruction, a constant number of lanes is moved in
pieces of powers of two and a run-time mask by a branch.
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.backends.llvm.kernel.scalar_ops import apply
from graphc.backends.llvm.kernel.scope import Scope
from graphc.backends.llvm.kernel.values import from_memory, memory_type, to_memory
from graphc.backends.llvm.text import Builder, Val, lanes, vector
from graphc.ir.dims import Dim
from graphc.ir.kernel import Instruction
from graphc.ir.types import DType

__all__ = ["load", "store"]


class _Place:
    """Where an access goes: buffer address, element offset of lane 0, and growth per lane."""

    def __init__(self, scope: Scope, instruction: Instruction) -> None:
        space = scope.space
        buffer = space.kernel.buffers[instruction.buffer]
        self.scope = scope
        self.builder = scope.builder
        self.dtype: DType = buffer.type.dtype
        self.memory = memory_type(self.dtype)
        self.align = self.dtype.itemsize
        self.base = space.pointers[instruction.buffer]
        self.numel = buffer.type.numel
        self.offset: Dim = space.offset(instruction.buffer, instruction.index)
        self.step = scope.step(self.offset)
        self.private = buffer.access == "local" and space.local_lanes > 1
        if self.private:
            self.numel *= space.local_lanes
        self.type = vector(self.memory, scope.width)

    def contiguous(self) -> bool:
        """True where the lanes stand side by side, first lane first."""
        return self.step == 0 if self.private else self.step == 1

    def address(self, shift: int = 0) -> Val:
        """Address of lane 0, `shift` elements further."""
        factor = self.scope.space.local_lanes if self.private else 1
        if isinstance(self.offset, int):
            return self.builder.gep(self.base, self.offset * factor + shift, self.memory)
        at = self.scope.dim(self.offset * factor)
        return self.builder.gep(self.builder.gep(self.base, at, self.memory), shift, self.memory)

    def lane_addresses(self, mask: Val | None) -> list[Val]:
        """The address of every active lane; that of element 0 where the mask is clear."""
        b, scope = self.builder, self.scope
        offsets: Val | None = None
        if self.step is None or mask is not None:
            offsets = scope.lane_dims(self.offset)
            if self.private:
                factor = b.const(offsets.type, scope.space.local_lanes)
                own = b.vector_literal(
                    offsets.type[1:-1].split(" x ")[1], [str(i) for i in range(scope.width)]
                )
                offsets = b.add(b.mul(offsets, factor), own)
            if mask is not None:
                offsets = b.select(mask, offsets, b.const(offsets.type, 0))
        if offsets is None:
            step = self.step or 0
            own_step = scope.space.local_lanes * step + 1 if self.private else step
            return [self.address(i * own_step) for i in range(scope.active)]
        result = []
        for i in range(scope.active):
            at = b.extract(offsets, i)
            wide = at if at.type == "i64" else b.cast("sext", at, "i64")
            result.append(b.gep(self.base, wide, self.memory))
        return result


def _native_mask(b: Builder, memory: str) -> bool:
    """True where the target masks elements of this type in one instruction."""
    wide = memory in ("float", "double", "i32", "i64")
    return b.target.has_masks and (wide or b.target.vector_bytes >= 64)


# -- loads ----------------------------------------------------------------------------


def load(scope: Scope, instruction: Instruction) -> Val:
    """The carried value of a load, one scalar where all lanes read the same element."""
    b = scope.builder
    possible, uniform, varying = scope.guard(instruction.guards)
    fill = scope.value(instruction.operands[0]) if instruction.operands else None
    place = _Place(scope, instruction)
    if not possible or place.numel == 0:
        assert fill is not None, "a load from an empty buffer needs a guard"
        return fill
    if varying is None and place.step == 0 and not place.private:
        value = from_memory(b, place.dtype, _load_scalar(place, uniform))
        return value if uniform is None else _choose(b, uniform, value, fill)
    value = from_memory(b, place.dtype, _load_lanes(place, uniform, varying))
    condition = _both(b, uniform, varying, scope.width)
    return value if condition is None else _choose(b, condition, value, fill)


def _both(b: Builder, uniform: Val | None, varying: Val | None, width: int) -> Val | None:
    if varying is None or uniform is None:
        return uniform if varying is None else varying
    return b.and_(varying, b.splat(uniform, width))


def _choose(b: Builder, condition: Val, value: Val, fill: Val | None) -> Val:
    assert fill is not None
    width = max(lanes(value.type), lanes(fill.type))
    return b.select(condition, b.splat(value, width), b.splat(fill, width))


def _load_scalar(place: _Place, uniform: Val | None) -> Val:
    b = place.builder
    address = place.address()
    if uniform is not None:
        address = b.select(uniform, address, place.base)
    return b.load(place.memory, address, place.align)


def _load_lanes(place: _Place, uniform: Val | None, varying: Val | None) -> Val:
    b, scope = place.builder, place.scope
    condition = _both(b, None, varying, scope.width)
    if scope.mask is not None:
        condition = scope.mask if condition is None else b.and_(condition, scope.mask)
    if place.private:
        condition = varying
    reverse = place.step == -1 and not place.private
    if not (place.contiguous() or reverse):
        return _load_scattered(
            place, _both(b, uniform, condition, scope.width) if uniform is not None else condition
        )
    active = scope.width if place.private else scope.active
    if uniform is not None and place.numel < active:
        condition, uniform = _both(b, uniform, condition or _full(b, scope.width), scope.width), None
    address = place.address(1 - scope.width if reverse else 0)
    if uniform is not None:
        # Any address with `active` elements after it will do where the guard fails.
        first = b.gep(place.base, active - scope.width, place.memory) if reverse else place.base
        address = b.select(uniform, address, first)
    if reverse:
        condition = None if condition is None else _reversed(b, condition)
        return _reversed(b, _load_run(place, address, active, condition, from_end=True))
    return _load_run(place, address, active, condition)


def _full(b: Builder, width: int) -> Val:
    return b.const(vector("i1", width), True)


def _reversed(b: Builder, value: Val) -> Val:
    return b.shuffle(value, None, range(lanes(value.type) - 1, -1, -1))


def _load_run(place: _Place, address: Val, active: int, condition: Val | None, from_end: bool = False) -> Val:
    """Neighbouring elements from `address`: the first (or last) `active` lanes where `condition` holds."""
    b, width = place.builder, place.scope.width
    if condition is None:
        if active == width:
            return b.load(place.type, address, place.align)
        if not _native_mask(b, place.memory):
            return _load_pieces(place, address, active, from_end)
    real = [(i >= width - active) if from_end else (i < active) for i in range(width)]
    mask = b.vector_literal("i1", ["true" if r else "false" for r in real]) if active < width else None
    if condition is not None:
        mask = condition if mask is None else b.and_(mask, condition)
    assert mask is not None
    if _native_mask(b, place.memory):
        return b.masked_load(place.type, address, mask, b.const(place.type, 0), place.align)
    return _load_branching(place, address, mask)


def _load_pieces(place: _Place, address: Val, active: int, from_end: bool) -> Val:
    """`active` lanes without masks: loads of powers of two put side by side."""
    b, width = place.builder, place.scope.width
    start = width - active if from_end else 0
    result: Val | None = None
    at = start
    while at < start + active:
        size = 1 << ((start + active - at).bit_length() - 1)
        part = b.load(vector(place.memory, size), b.gep(address, at, place.memory), place.align)
        if size == 1:
            result = b.insert(b.const(place.type, 0) if result is None else result, part, at)
        else:
            spread = b.shuffle(part, None, [i - at if at <= i < at + size else -1 for i in range(width)])
            old = b.const(place.type, 0) if result is None else result
            result = b.shuffle(old, spread, [width + i if at <= i < at + size else i for i in range(width)])
        at += size
    assert result is not None
    return result


def _load_branching(place: _Place, address: Val, mask: Val) -> Val:
    """A masked load as a branch: one plain load where all lanes are set, else lane by lane."""
    b = place.builder
    every = b.intrinsic("vector.reduce.and", "i1", [mask], overload=mask.type)
    whole, piecewise, done = b.label("whole"), b.label("lanes"), b.label("loaded")
    b.branch_if(every, whole, piecewise)
    b.block(whole)
    plain = b.load(place.type, address, place.align)
    b.branch(done)
    b.block(piecewise)
    gathered = b.const(place.type, 0)
    for i in range(place.scope.width):
        at = b.select(b.extract(mask, i), b.gep(address, i, place.memory), place.base)
        gathered = b.insert(gathered, b.load(place.memory, at, place.align), i)
    b.branch(done)
    b.block(done)
    text = f"phi {place.type} [ {plain.text}, %{whole} ], [ {gathered.text}, %{piecewise} ]"
    return b.op(place.type, text)


def _load_scattered(place: _Place, condition: Val | None) -> Val:
    """Lane by lane; lanes whose condition fails read element 0."""
    b = place.builder
    result = b.const(place.type, 0)
    for i, address in enumerate(place.lane_addresses(condition)):
        result = b.insert(result, b.load(place.memory, address, place.align), i)
    return result


# -- stores ---------------------------------------------------------------------------


def store(scope: Scope, instruction: Instruction) -> None:
    """Stores a scalar, or adds it to the element where the instruction's value is `"add"`."""
    b = scope.builder
    possible, uniform, varying = scope.guard(instruction.guards)
    value = scope.value(instruction.operands[0])
    add = instruction.value == "add"
    # What is computed under the branch must not be known to the scope after it.
    place = _Place(scope if uniform is None else scope.child(), instruction)
    if not possible or place.numel == 0:
        return
    if uniform is None:
        _store(place, value, varying, add)
        return
    with b.if_(uniform):
        _store(place, value, varying, add)


def _store(place: _Place, value: Val, varying: Val | None, add: bool) -> None:
    b, scope = place.builder, place.scope
    if scope.width == 1:
        _store_at(place, place.address(), value, add)
        return
    mask = varying
    if scope.mask is not None and not place.private:
        mask = scope.mask if mask is None else b.and_(mask, scope.mask)
    if not add and mask is None and place.step == 0 and not place.private:
        _store_at(place, place.address(), b.extract(value, scope.active - 1), add)
    elif place.contiguous() or (place.step == -1 and mask is None and scope.active == scope.width):
        _store_run(place, b.splat(value, scope.width), mask, add)
    else:
        _store_scattered(place, b.splat(value, scope.width), mask, add)


def _store_at(place: _Place, address: Val, value: Val, add: bool) -> None:
    """One element, or a whole vector of neighbouring ones."""
    b, type_ = place.builder, vector(place.memory, lanes(value.type))
    if add:
        old = from_memory(b, place.dtype, b.load(type_, address, place.align))
        value = apply(b, "add", place.dtype, [old, value])
    b.store(to_memory(b, place.dtype, value), address, place.align)


def _store_run(place: _Place, value: Val, mask: Val | None, add: bool) -> None:
    b, scope = place.builder, place.scope
    active = scope.width if place.private else scope.active
    if place.step == -1 and not place.private:
        _store_at(place, place.address(1 - scope.width), _reversed(b, value), add)
        return
    address = place.address()
    if mask is None and active == scope.width:
        _store_at(place, address, value, add)
        return
    if not _native_mask(b, place.memory):
        if mask is None:
            _store_pieces(place, address, value, active, add)
        else:
            _each_lane(
                place,
                mask,
                active,
                lambda i: _store_at(place, b.gep(address, i, place.memory), b.extract(value, i), add),
            )
        return
    bits = ["true" if i < active else "false" for i in range(scope.width)]
    if active < scope.width:
        constant = b.vector_literal("i1", bits)
        mask = constant if mask is None else b.and_(mask, constant)
    assert mask is not None
    if add:
        old = b.masked_load(place.type, address, mask, b.const(place.type, 0), place.align)
        value = apply(b, "add", place.dtype, [from_memory(b, place.dtype, old), value])
    b.masked_store(to_memory(b, place.dtype, value), address, mask, place.align)


def _store_pieces(place: _Place, address: Val, value: Val, active: int, add: bool) -> None:
    """The first `active` lanes without masks, in powers of two."""
    b, at = place.builder, 0
    while at < active:
        size = 1 << ((active - at).bit_length() - 1)
        part = b.extract(value, at) if size == 1 else b.shuffle(value, None, range(at, at + size))
        _store_at(place, b.gep(address, at, place.memory), part, add)
        at += size


def _store_scattered(place: _Place, value: Val, mask: Val | None, add: bool) -> None:
    """Lane by lane in order, so that lanes which meet are added in order."""
    b = place.builder
    addresses = place.lane_addresses(mask)
    _each_lane(
        place, mask, len(addresses), lambda i: _store_at(place, addresses[i], b.extract(value, i), add)
    )


def _each_lane(place: _Place, mask: Val | None, active: int, emit: Callable[[int], None]) -> None:
    b = place.builder
    for i in range(active):
        if mask is None:
            emit(i)
        else:
            with b.if_(b.extract(mask, i)):
                emit(i)
