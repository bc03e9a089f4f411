"""The three transforms as functions of a module: over rows of weights, over a block of tiles, over their products.

Transformed weights lie [frequency][row of the block][channel], transformed tiles [frequency][channel][tile]
and products [frequency][row of the block][tile]. Tiles of a block are neighbours whatever rows of the
image they are in: a vector may spoil what follows the end of its row, which is written after it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from graphc.backends.llvm.contraction.axes import (
    Env,
    chunks,
    constant,
    index_value,
    minimum,
    plus,
    runs,
    times,
)
from graphc.backends.llvm.contraction.body import Point, Scalars, emit_body, gather, guard_mask, joined
from graphc.backends.llvm.contraction.packing import transpose
from graphc.backends.llvm.contraction.winograd.pattern import TAPS, PlainWeights, Windows, plain_weights
from graphc.backends.llvm.contraction.winograd.plan import GROUP, Plan
from graphc.backends.llvm.contraction.winograd.points import point_order, points_of_sums
from graphc.backends.llvm.contraction.winograd.transforms import (
    transform_data,
    transform_result,
    transform_weights,
)
from graphc.backends.llvm.text import Builder, ModuleText, Val, vector
from graphc.ir.dims import symbols
from graphc.ir.kernel import Instruction, extent
from graphc.ir.types import float32

__all__ = ["emit_data_stage", "emit_result_stage", "emit_weights_stage"]

_SCALAR = "float"
_SIZE = 4


def _pointers(builder: Builder, windows: Windows) -> list[Val]:
    buffers = builder.params[0]
    return [builder.load("ptr", builder.gep(buffers, i, "ptr"), 8) for i in range(len(windows.buffers))]


def emit_weights_stage(module: ModuleText, name: str, plan: Plan) -> None:
    """`name(buffers, target, row, end)`: the transformed weights of rows [row, end)."""
    windows, width = plan.windows, plan.width
    parameters = (("ptr", "buffers"), ("ptr", "target"), ("i64", "row"), ("i64", "end"))
    builder = module.function(
        name, "void", parameters, linkage="internal", attributes="nounwind noinline", hides_steps=True
    )
    _, target, first, end = builder.params
    pointers = _pointers(builder, windows)
    plain = plain_weights(windows)

    def chunk(m: Val, c: Val, mask: Val | None) -> None:
        env = windows.rows.split(builder, m)
        if plain is not None and mask is None:
            taps = _plain_taps(builder, width, plain, pointers, env, c)
        else:
            offsets = range(TAPS)
            taps = [[_tap(builder, plan, pointers, env, c, mask, r, s) for s in offsets] for r in offsets]
        row = times(builder, builder.sub(m, first), plan.depth)
        place = builder.gep(builder.gep(target, row, _SCALAR), c, _SCALAR)
        for offset, value in _placed(builder, plan, taps):
            at = builder.gep(place, offset, _SCALAR)
            if mask is None:
                builder.store(value, at, _SIZE)
            else:
                builder.masked_store(value, at, mask, _SIZE)

    def along_channels(m: Val, _: tuple[Val, ...]) -> list[Val]:
        chunks(builder, constant(0), constant(windows.channels), width, lambda c, mask: chunk(m, c, mask))
        return []

    def along_rows(c: Val, mask: Val | None) -> None:
        def row(m: Val, _: tuple[Val, ...]) -> list[Val]:
            chunk(m, c, mask)
            return []

        builder.loop(first, end, 1, (), row, "row")

    # What lies side by side is read in turn, so that no line is fetched twice.
    if plain is not None and plain.apart > TAPS * TAPS:
        chunks(builder, constant(0), constant(windows.channels), width, along_rows)
    else:
        builder.loop(first, end, 1, (), along_channels, "row")
    builder.ret()


def _placed(builder: Builder, plan: Plan, taps: Sequence[Sequence[Val]]) -> list[tuple[int, Val]]:
    """What weights become, and where each is from the first one's place on."""
    windows, apart = plan.windows, plan.weights_apart
    if plan.strided:
        return [
            (f * apart + n * windows.channels, taps[r][s])
            for f, points in enumerate(points_of_sums(windows))
            for n, (_, (r, s)) in enumerate(points)
        ]
    values = [v for line in transform_weights(builder, taps) for v in line]
    return [(f * apart, value) for f, value in enumerate(values)]


def _plain_taps(
    builder: Builder, width: int, plain: PlainWeights, pointers: Sequence[Val], env: Env, c: Val
) -> list[list[Val]]:
    """All taps of `width` channels from the array itself: squares of them are transposed in registers, the ninth is
    gathered. Where channels lie apart, those of the next ones are asked for."""
    side = min(width, 8)
    first = plus(builder, index_value(builder, plain.start, env), times(builder, c, plain.apart))
    place = builder.gep(pointers[plain.buffer], first, _SCALAR)
    if plain.apart > TAPS * TAPS:
        for i in range(width, 2 * width):
            builder.prefetch(builder.gep(place, i * plain.apart, _SCALAR))
    type_ = vector(_SCALAR, side)
    taps: list[Val] = []
    for start in range(0, TAPS * TAPS - 1, side):
        squares = [
            transpose(
                builder,
                [
                    builder.load(type_, builder.gep(place, (group + i) * plain.apart + start, _SCALAR), _SIZE)
                    for i in range(side)
                ],
            )
            for group in range(0, width, side)
        ]
        taps += [joined(builder, parts) for parts in zip(*squares, strict=True)]
    last = [builder.gep(place, i * plain.apart + TAPS * TAPS - 1, _SCALAR) for i in range(width)]
    taps.append(gather(builder, [builder.load(_SCALAR, at, _SIZE) for at in last]))
    if plain.turned:
        taps.reverse()
    return [taps[r * TAPS : (r + 1) * TAPS] for r in range(TAPS)]


def _tap(
    builder: Builder, plan: Plan, pointers: Sequence[Val], env: Env, c: Val, mask: Val | None, r: int, s: int
) -> Val:
    windows = plan.windows
    here = env | {windows.channel: c, windows.taps[0]: constant(r), windows.taps[1]: constant(s)}
    scalars: Scalars = {}
    point = Point(pointers, here, windows.channel, plan.width, mask)
    emit_body(builder, windows.buffers, windows.weights.body, point, scalars)
    return scalars[windows.weights.result][1]


def emit_data_stage(module: ModuleText, name: str, plan: Plan) -> None:
    """`name(buffers, gathered, target, first, last)`: the transformed tiles [first, last)."""
    parameters = (
        ("ptr", "buffers"), ("ptr", "gathered"), ("ptr", "target"), ("i64", "first"), ("i64", "last"),
    )  # fmt: skip
    builder = module.function(
        name, "void", parameters, linkage="internal", attributes="nounwind noinline", hides_steps=True
    )
    _, gathered, target, first, last = builder.params
    kind = _Points if plan.strided else _Data
    stage = kind(builder, plan, _pointers(builder, plan.windows), gathered)

    def piece(start: Val, stop: Val, env: Env, origin: Val) -> None:
        place = builder.gep(target, builder.sub(start, first), _SCALAR)
        stage.piece(env, builder.sub(start, origin), builder.sub(stop, start), place)

    runs(builder, plan.tiles, first, last, piece)
    builder.ret()


class _Data:
    """Tiles of one row: their four rows of data are gathered with even and odd positions apart, a group of
    channels at a time; a tile's columns are then neighbours of its neighbours' in both."""

    def __init__(self, builder: Builder, plan: Plan, pointers: Sequence[Val], gathered: Val) -> None:
        self.builder = builder
        self.plan = plan
        self.windows = plan.windows
        self.pointers = pointers
        self.gathered = gathered

    def piece(self, env: Env, column: Val, count: Val, target: Val) -> None:
        """`count` tiles of the row `env`, from tile `column` on."""
        builder, channels = self.builder, self.windows.channels

        def group(c: Val, _: tuple[Val, ...]) -> list[Val]:
            end = plus(builder, c, constant(GROUP))
            if channels % GROUP:
                end = minimum(builder, end, constant(channels))
            builder.loop(0, 4, 1, (), lambda i, _: self._gather_row(env, i, column, count, c, end), "line")
            builder.loop(c, end, 1, (), lambda k, _: self._transform(k, c, count, target), "channel")
            return []

        builder.loop(0, channels, GROUP, (), group, "group")

    def _gather_row(self, env: Env, i: Val, column: Val, count: Val, c: Val, end: Val) -> list[Val]:
        """Row `i` of the tiles, of channels [c, end)."""
        builder, windows, width = self.builder, self.windows, self.plan.width
        row_axis, column_axis = windows.at
        images = {a: env[a] for a in windows.images}
        row = plus(builder, times(builder, env[self.plan.tiles.axes[-2]], 2), i)
        line = builder.gep(self.gathered, times(builder, i, 2 * self.plan.line), _SCALAR)
        rows = extent(row_axis)

        def pair(v: Val, _: tuple[Val, ...]) -> list[Val]:
            start = times(builder, plus(builder, column, v), 2)
            firsts = [start, plus(builder, start, constant(width))]
            masks = []
            for at in firsts:
                left = builder.sub(constant(extent(column_axis)), at)
                left = builder.select(builder.icmp("slt", left, constant(0)), constant(0), left)
                if rows % 2:
                    left = builder.select(builder.icmp("slt", row, constant(rows)), left, constant(0))
                masks.append(builder.lane_mask(left, width))

            around = [images | {row_axis: row, column_axis: at} for at in firsts]
            signs = [self._signs(env, mask) for env, mask in zip(around, masks, strict=True)]

            def channel(k: Val, _: tuple[Val, ...]) -> list[Val]:
                a, b = (
                    self._values(env | {windows.channel: k}, mask, sign)
                    for env, mask, sign in zip(around, masks, signs, strict=True)
                )
                place = builder.gep(
                    line, plus(builder, times(builder, builder.sub(k, c), 8 * self.plan.line), v), _SCALAR
                )
                for phase in range(2):
                    apart = builder.shuffle(a, b, range(phase, 2 * width, 2))
                    builder.store(apart, builder.gep(place, phase * self.plan.line, _SCALAR), _SIZE)
                return []

            builder.loop(c, end, 1, (), channel, "gather")
            return []

        builder.loop(0, plus(builder, count, constant(1)), width, (), pair, "pair")
        return []

    def _plain(self) -> Instruction | None:
        """The data's load where they are one array with zeros around it."""
        *constants, load = self.windows.data.body
        if load.opcode != "load" or load.dtype is not float32 or len(constants) != len(load.operands):
            return None
        guarded = any(self.windows.channel in symbols(e) for guard in load.guards for e in guard)
        zero = all(i.opcode == "const" and i.value == 0 for i in constants)
        return load if zero and not guarded else None

    def _signs(self, env: Env, mask: Val) -> Val | None:
        """Lanes that are read of plain data, all bits of each set: that is what a masked load takes, made before the loop."""
        load = self._plain()
        if load is None:
            return None
        inside = guard_mask(
            self.builder, load.guards, Point(self.pointers, env, self.windows.at[1], self.plan.width, mask)
        )
        assert inside is not None
        return self.builder.cast("sext", inside, vector("i32", self.plan.width))

    def _values(self, env: Env, mask: Val, signs: Val | None) -> Val:
        builder, windows, width = self.builder, self.windows, self.plan.width
        load = self._plain()
        axis = windows.at[1]
        if load is not None and signs is not None:
            bits = builder.icmp("slt", signs, builder.const(signs.type, 0))
            point = Point(self.pointers, env, axis, width, bits)
            bare: tuple[Instruction, ...] = (dataclasses.replace(load, guards=(), operands=()),)
        else:
            point, bare = Point(self.pointers, env, axis, width, mask), windows.data.body
        scalars: Scalars = {}
        emit_body(builder, windows.buffers, bare, point, scalars)
        return scalars[windows.data.result][1]

    def _transform(self, k: Val, c: Val, count: Val, target: Val) -> list[Val]:
        """All tiles of channel `k`, where channel `c` is the first of the gathered ones."""
        builder, plan, width = self.builder, self.plan, self.plan.width
        type_ = vector(_SCALAR, width)
        lines = builder.gep(self.gathered, times(builder, builder.sub(k, c), 8 * plan.line), _SCALAR)
        out = builder.gep(target, times(builder, k, plan.lead), _SCALAR)

        def chunk(v: Val, kept: int) -> None:
            here = builder.gep(lines, v, _SCALAR)
            tile = [
                [
                    builder.load(
                        type_, builder.gep(here, (2 * i + j % 2) * plan.line + j // 2, _SCALAR), _SIZE
                    )
                    for j in range(4)
                ]
                for i in range(4)
            ]
            place = builder.gep(out, v, _SCALAR)
            for i, values in enumerate(transform_data(builder, tile)):
                for j, value in enumerate(values):
                    at = builder.gep(place, (4 * i + j) * plan.data_apart, _SCALAR)
                    builder.store(
                        value if kept == width else builder.shuffle(value, None, range(kept)), at, _SIZE
                    )

        whole, short = self._whole(count)

        def full(v: Val, _: tuple[Val, ...]) -> list[Val]:
            chunk(v, width)
            return []

        builder.loop(0, whole, width, (), full, "tiles")
        with builder.if_(short):
            chunk(whole, width // 2)
        return []

    def _whole(self, count: Val) -> tuple[Val, Val]:
        """How many of `count` tiles go as whole vectors, and whether others follow: up to half a vector at the end is
        stored as half a vector, so that little is spoilt, and little room needed."""
        builder, half = self.builder, self.plan.width // 2
        rest = builder.op("i64", f"and {count}, {2 * half - 1}")
        short = builder.icmp("ule", builder.sub(rest, constant(1)), constant(half - 1))
        return builder.select(short, builder.sub(count, rest), count), short


class _Points(_Data):
    """Tiles of one row where every other point of data is there: the four points that each meets are copied as they are."""

    def piece(self, env: Env, column: Val, count: Val, target: Val) -> None:
        builder, width = self.builder, self.plan.width
        whole, short = self._whole(count)

        def full(v: Val, _: tuple[Val, ...]) -> list[Val]:
            self._points(env, column, v, target, width)
            return []

        builder.loop(0, whole, width, (), full, "tiles")
        with builder.if_(short):
            self._points(env, column, whole, target, width // 2)

    def _points(self, env: Env, column: Val, v: Val, target: Val, kept: int) -> None:
        """All channels' points of the tiles from `v` on."""
        builder, plan, windows, width = self.builder, self.plan, self.windows, self.plan.width
        row_axis, column_axis = windows.at
        images = {a: env[a] for a in windows.images}
        row = env[plan.tiles.axes[-2]]
        met = []
        for i, j in point_order(windows):
            at = plus(builder, plus(builder, column, v), constant(j))
            mask = builder.lane_mask(builder.sub(constant(extent(column_axis)), at), width)
            here = images | {row_axis: plus(builder, row, constant(i)), column_axis: at}
            met.append((here, mask, self._signs(here, mask)))

        def channel(k: Val, _: tuple[Val, ...]) -> list[Val]:
            place = builder.gep(target, plus(builder, times(builder, k, plan.lead), v), _SCALAR)
            for number, (here, mask, signs) in enumerate(met):
                value = self._values(here | {windows.channel: k}, mask, signs)
                at = builder.gep(place, number * plan.data_apart, _SCALAR)
                builder.store(
                    value if kept == width else builder.shuffle(value, None, range(kept)), at, _SIZE
                )
            return []

        builder.loop(0, windows.channels, 1, (), channel, "channel")


def emit_result_stage(module: ModuleText, name: str, plan: Plan) -> None:
    """`name(buffers, products, row, end, first, last)`: the results of rows [row, end) and tiles [first, last)."""
    parameters = (
        ("ptr", "buffers"), ("ptr", "products"), ("i64", "row"), ("i64", "end"), ("i64", "first"), ("i64", "last"),
    )  # fmt: skip
    builder = module.function(
        name, "void", parameters, linkage="internal", attributes="nounwind noinline", hides_steps=True
    )
    _, products, row, end, first, last = builder.params
    stage = _Result(builder, plan, _pointers(builder, plan.windows))

    def one(m: Val, _: tuple[Val, ...]) -> list[Val]:
        line = builder.gep(products, times(builder, builder.sub(m, row), plan.lead), _SCALAR)
        stage.row(plan.windows.rows.split(builder, m), line, first, last)
        return []

    builder.loop(row, end, 1, (), one, "row")
    builder.ret()


class _Result:
    """Products of tiles become 2×2 results each, rows of which the epilogue takes in lanes."""

    def __init__(self, builder: Builder, plan: Plan, pointers: Sequence[Val]) -> None:
        self.builder = builder
        self.plan = plan
        self.windows = plan.windows
        self.pointers = pointers
        self.uniform, self.varying = _by_row(plan.windows)
        self.stack = builder.alloca(vector(_SCALAR, plan.width), 4)

    def row(self, env: Env, line: Val, first: Val, last: Val) -> None:
        """All tiles of one output channel."""
        builder, windows, width = self.builder, self.windows, self.plan.width
        scalars: Scalars = {}
        emit_body(builder, windows.buffers, self.uniform, Point(self.pointers, env, None, 1), scalars)
        spread = {n: (dtype, builder.splat(x, width)) for n, (dtype, x) in scalars.items()}

        def piece(start: Val, stop: Val, outer: Env, origin: Val) -> None:
            here = env | {a: outer[a] for a in windows.images}
            top = times(builder, outer[self.plan.tiles.axes[-2]], 2)
            ends = times(builder, builder.sub(stop, origin), 2)
            if windows.sizes[1] % 2:
                ends = minimum(builder, ends, constant(windows.sizes[1]))

            def chunk(t: Val, mask: Val | None) -> None:
                place = builder.gep(line, builder.sub(t, first), _SCALAR)
                left = times(builder, builder.sub(t, origin), 2)
                self._tiles(here, spread, place, top, left, None if mask is None else ends)

            chunks(builder, start, stop, width, chunk)

        runs(builder, self.plan.tiles, first, last, piece)

    def _tiles(self, env: Env, spread: Scalars, place: Val, top: Val, left: Val, ends: Val | None) -> None:
        """A vector of tiles whose first result is at (top, left); results before `ends` only."""
        builder, plan, width = self.builder, self.plan, self.plan.width
        height, breadth = self.windows.sizes
        type_ = vector(_SCALAR, width)
        apart = plan.products_apart
        side = 2 if plan.strided else 4
        products = [
            [
                builder.load(type_, builder.gep(place, (side * i + j) * apart, _SCALAR), _SIZE)
                for j in range(side)
            ]
            for i in range(side)
        ]
        if not plan.strided:
            products = transform_result(builder, products)
        if ends is None and breadth % 2:
            ends = constant(breadth)
        zipped = [i for pair in zip(range(width), range(width, 2 * width), strict=True) for i in pair]
        results = [
            builder.shuffle(even, odd, half)
            for even, odd in products
            for half in (zipped[:width], zipped[width:])
        ]
        if ends is None and not height % 2:
            for i, value in enumerate(results):
                at = plus(builder, left, constant(i % 2 * width))
                self._finish(env, spread, plus(builder, top, constant(i // 2)), at, value, None)
            return
        # At edges the same code takes each of the four: stores under masks are slow, and seldom needed.
        for i, value in enumerate(results):
            builder.store(value, builder.gep(self.stack, i, type_), _SIZE)

        def one(i: Val, _: tuple[Val, ...]) -> list[Val]:
            line = plus(builder, top, builder.op("i64", f"lshr {i}, 1"))
            at = plus(builder, left, times(builder, builder.op("i64", f"and {i}, 1"), width))
            value = builder.load(type_, builder.gep(self.stack, i, type_), _SIZE)
            rest = builder.sub(constant(breadth) if ends is None else ends, at)
            if height % 2:
                rest = builder.select(builder.icmp("slt", line, constant(height)), rest, constant(0))
            with builder.if_(builder.icmp("sge", rest, constant(width))):
                self._finish(env, spread, line, at, value, None)
            inside = builder.and_(
                builder.icmp("sgt", rest, constant(0)), builder.icmp("slt", rest, constant(width))
            )
            with builder.if_(inside):
                self._finish(env, spread, line, at, value, builder.lane_mask(rest, width))
            return []

        builder.loop(0, len(results), 1, (), one, "edge")

    def _finish(self, env: Env, spread: Scalars, line: Val, left: Val, value: Val, mask: Val | None) -> None:
        """The epilogue of neighbouring results of one row."""
        builder, windows = self.builder, self.windows
        row_axis, column_axis = windows.outputs
        scalars = {**spread, windows.sum: (float32, value)}
        point = Point(
            self.pointers, env | {row_axis: line, column_axis: left}, column_axis, self.plan.width, mask
        )
        emit_body(builder, windows.buffers, self.varying, point, scalars)


def _by_row(windows: Windows) -> tuple[list[Instruction], list[Instruction]]:
    """The epilogue's instructions that are the same along a row of results, and the others; constants are in both."""
    rows = set(windows.rows.axes)
    uniform: dict[int, Instruction] = {}
    others = []
    for i in windows.epilogue:
        reads = i.opcode != "load" or windows.buffers[i.buffer].access == "in"
        fixed = i.opcode != "store" and not i.guards and all(symbols(e) <= rows for e in i.index)
        if reads and fixed and all(o in uniform for o in i.operands):
            uniform[i.id] = i
        if i.id not in uniform or i.opcode == "const":
            others.append(i)
    return list(uniform.values()), others
