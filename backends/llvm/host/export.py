"""The C functions of an exported library, over the same tables and serial driver as in process.

For a program `digits`: `digits_abi_version`, `_fingerprint`, `_state_size`, `_workspace_size`,
`_init`, `_run`, `_error`, and `_set_lr` where it trains. The functions are re-entrant, use no memory
but the caller's, and run on the calling thread. The state block holds each state at its
`Buffer.offset`; the workspace holds the arena, then the buffer table. A library with named sizes takes them as `dims`
and has `_input_shape` and `_output_shape` besides; its workspace is laid out as `sized.py` says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.backends.llvm.compile import compile_text
from graphc.backends.llvm.elf import data_object
from graphc.backends.llvm.host.driver import add_item_runner, add_serial_driver
from graphc.backends.llvm.host.routine import NULL, Routine, i64
from graphc.backends.llvm.host.sized import Requirement, Sized, SizedRun, Values, fixed_program
from graphc.backends.llvm.text import ModuleText, Val
from graphc.ir.failure import NUMBER_BITS, failure_text
from graphc.ir.program import Program, SizeArray
from graphc.ir.target import Target
from graphc.runtime.layout import CONTEXT, PROGRAM, ProgramTables, program_tables

__all__ = ["ABI_VERSION", "ERRORS", "export_module", "export_objects", "state_bytes", "workspace_bytes"]

ABI_VERSION = 1
ALIGNMENT = 64

ERRORS = {
    0: "success",
    -1: "the state pointer is null",
    -2: "the workspace pointer is null",
    -3: "an input or output pointer is null",
    -4: "a buffer is not aligned to 64 bytes",
    -5: "the library has no embedded weights; pass them to init",
    -6: "a size in dims is outside of its declared range",
    -7: "dims is null, but the library has named sizes",
    -8: "there is no input or output of this number",
}
"""Codes that every library may return; positive ones are the program's own checks."""

_NO_STATE, _NO_WORKSPACE, _NO_BUFFER, _MISALIGNED, _NO_WEIGHTS = -1, -2, -3, -4, -5
_BAD_SIZE, _NO_SIZES, _NO_SUCH_BUFFER = -6, -7, -8


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def state_bytes(program: Program) -> int:
    """Size of the state block: 0 where the program has no state."""
    return _aligned(max((b.offset + b.type.nbytes for b in program.of_kind("state")), default=0))


def workspace_bytes(program: Program) -> int:
    """Size of the workspace: arena and buffer table."""
    return _aligned(program.arena_bytes) + _aligned(8 * len(program.buffers))


def export_objects(
    program: Program,
    kernel_symbols: Sequence[str],
    target: Target,
    name: str,
    *,
    states: Sequence[Any] | None = None,
    learning_rates: Sequence[int] = (),
    fingerprint: str = "",
    sized: Sized | None = None,
) -> list[bytes]:
    """Objects to link with the kernels: the C functions, and the constants and initial states as data.

    `states` are the initial values by index, or None for a library without embedded weights. `sized` is for a
    program with symbolic sizes.
    """
    text = export_module(
        program,
        kernel_symbols,
        target,
        name,
        embedded=states is not None,
        learning_rates=learning_rates,
        fingerprint=fingerprint,
        sized=sized,
    )
    data = {
        _constant(name, i): np.ascontiguousarray(value).tobytes()
        for i, value in enumerate(program.constants)
        if not isinstance(value, SizeArray)
    }
    if states is not None and state_bytes(program):
        data[_initial(name)] = _state_image(program, states)
    objects = [compile_text(str(text), target)]
    if data:
        objects.append(data_object(data, target.triple.partition("-")[0], align=ALIGNMENT))
    return objects


def _state_image(program: Program, states: Sequence[Any]) -> bytes:
    """The state block at first use."""
    image = np.zeros(state_bytes(program), np.uint8)
    rows = program.of_kind("state")
    if len(states) != len(rows):
        raise ValueError(f"{program.name}: {len(states)} initial states given, {len(rows)} expected")
    for buffer, value in zip(rows, states, strict=True):
        content = np.ascontiguousarray(value)
        if content.nbytes != buffer.type.nbytes:
            raise ValueError(
                f"{program.name}: initial state {buffer.index} has {content.nbytes} bytes, "
                f"expected {buffer.type.nbytes} for {buffer.type}"
            )
        image[buffer.offset : buffer.offset + content.nbytes] = np.frombuffer(content.tobytes(), np.uint8)
    return image.tobytes()


def _constant(name: str, index: int) -> str:
    return f"{name}.constant.{index}"


def _initial(name: str) -> str:
    return f"{name}.initial"


def export_module(
    program: Program,
    kernel_symbols: Sequence[str],
    target: Target,
    name: str,
    *,
    embedded: bool = True,
    learning_rates: Sequence[int] = (),
    fingerprint: str = "",
    sized: Sized | None = None,
) -> ModuleText:
    """The C functions' text.

    `learning_rates` are the states that `<name>_set_lr` writes, `fingerprint` what `<name>_fingerprint`
    returns.
    """
    module = ModuleText(target)
    run = None if sized is None else SizedRun(program, sized)
    tables = program_tables(program if run is None else fixed_program(program), kernel_symbols)
    plan = _add_tables(module, tables)
    add_item_runner(module)
    add_serial_driver(module, linkage="internal")
    size = state_bytes(program)
    for suffix, type_, value in (("abi_version", "i32", ABI_VERSION), ("state_size", "i64", size)):
        r = Routine.start(module, f"{name}_{suffix}", type_, [])
        r.ret(Val(type_, str(value)))
    r = Routine.start(module, f"{name}_workspace_size", "i64", [("ptr", "dims")])
    r.ret(i64(workspace_bytes(program)) if run is None else _sized_workspace(r, run))
    if run is not None:
        for kind in ("input", "output"):
            _add_shapes(module, f"{name}_{kind}_shape", run, kind)
    r = Routine.start(module, f"{name}_fingerprint", "ptr", [])
    r.ret(_string(module, "fingerprint", fingerprint))
    _add_init(module, name, size, embedded)
    _add_run(module, program, name, plan, size, run)
    _add_error(module, program, name, () if sized is None else sized.requirements)
    if learning_rates:
        _add_set_lr(module, program, name, learning_rates)
    return module


def _code(value: int) -> Val:
    return Val("i32", str(value))


def _add_tables(module: ModuleText, tables: ProgramTables) -> Val:
    """The program's tables as constants; kernels are external functions."""
    for symbol in dict.fromkeys(symbol for symbol, *_ in tables.calls):
        module.declare(symbol, "void", ["ptr", "i64", "i64", "ptr"])

    def records(name: str, rows: Sequence[Sequence[str]]) -> Val:
        flat = [word for row in rows for word in row]
        body = ", ".join(flat)
        types = ", ".join(word.split(" ")[0] for word in flat)
        return module.global_text(
            f"program.{name}", f"internal constant <{{ {types} }}> <{{ {body} }}>, align 64"
        )

    def numbers(row: Sequence[int]) -> list[str]:
        return [f"i64 {value}" for value in row]

    phases = records("phases", [numbers(row) for row in tables.phases])
    items = records("items", [numbers(row) for row in tables.items])
    calls = records("calls", [[f"ptr @{symbol}", *numbers(rest)] for symbol, *rest in tables.calls])
    rows = records("rows", [numbers(tables.rows)])
    repeats = records("repeats", [numbers(row) for row in tables.repeats])
    moves = records("moves", [numbers(row) for row in tables.moves])
    choices = records("choices", [numbers(row) for row in tables.choices])
    fields = {
        "phases": str(phases),
        "phase_count": f"i64 {len(tables.phases)}",
        "items": str(items),
        "calls": str(calls),
        "rows": str(rows),
        "repeats": str(repeats),
        "moves": str(moves),
        "choices": str(choices),
        "scratch_bytes": "i64 0",
    }
    return records("plan", [[fields[field] for field in PROGRAM.offset]])


def _require(r: Routine, condition: Val, code: int) -> None:
    """Leaves with `code` unless `condition` holds."""
    with r.exit_if(r.xor(condition, Val("i1", "true"))):
        r.ret(_code(code))


def _add_init(module: ModuleText, name: str, size: int, embedded: bool) -> None:
    """`int init(void *state, const void *weights)`: `weights` is laid out like the state block."""
    r = Routine.start(module, f"{name}_init", "i32", [("ptr", "state"), ("ptr", "weights")])
    state, weights = r.params
    if size == 0:
        r.ret(_code(0))
        return
    _require(r, r.not_null(state), _NO_STATE)
    _require_aligned(r, [state])
    if embedded:
        initial = module.global_text(_initial(name), "external hidden constant [0 x i8]")
        weights = r.select(r.is_null(weights), initial, weights)
    else:
        _require(r, r.not_null(weights), _NO_WEIGHTS)
    r.memcpy(state, weights, i64(size))
    r.ret(_code(0))


def _require_aligned(r: Routine, pointers: Sequence[Val]) -> None:
    bits = i64(0)
    for pointer in pointers:
        bits = r.or_(bits, r.op("i64", f"ptrtoint {pointer} to i64"))
    _require(r, r.zero(r.and_(bits, i64(ALIGNMENT - 1))), _MISALIGNED)


def _sized_workspace(r: Routine, run: SizedRun) -> Val:
    """The workspace of a library with named sizes; 0 where it does not serve the given ones."""
    (dims,) = r.params
    with r.exit_if(r.is_null(dims)):
        r.ret(i64(0))
    values = run.read(r, dims)
    run.check_ranges(r, values, lambda: r.ret(i64(0)))
    run.check(r, values, lambda _: r.ret(i64(0)))
    return r.add(run.offsets(r, values)[1], i64(run.arena))


def _add_shapes(module: ModuleText, name: str, run: SizedRun, kind: str) -> None:
    """`int shape(int number, const int64_t *dims, int64_t *shape)`: the sizes of an input or output."""
    r = Routine.start(module, name, "i32", [("i32", "number"), ("ptr", "dims"), ("ptr", "shape")])
    number, dims, shape = r.params
    values = _sizes(r, run, dims)
    for n, buffer in enumerate(run.program.of_kind(kind)):  # type: ignore[arg-type]
        with r.exit_if(r.icmp("eq", number, _code(n))):
            for i, d in enumerate(buffer.type.shape):
                r.store(values.of(d), r.gep(shape, i, "i64"), 8)
            r.ret(_code(0))
    r.ret(_code(_NO_SUCH_BUFFER))


def _sizes(r: Routine, run: SizedRun, dims: Val) -> Values:
    """The sizes that a caller passed; leaves with a code where the program does not serve them."""
    _require(r, r.not_null(dims), _NO_SIZES)
    values = run.read(r, dims)
    run.check_ranges(r, values, lambda: r.ret(_code(_BAD_SIZE)))
    first = len(run.program.checks) + 1
    run.check(r, values, lambda number: r.ret(_code(first + number)))
    return values


def _add_run(
    module: ModuleText, program: Program, name: str, plan: Val, size: int, run: SizedRun | None
) -> None:
    r = Routine.start(
        module,
        f"{name}_run",
        "i32",
        [("ptr", "state"), ("ptr", "inputs"), ("ptr", "outputs"), ("ptr", "dims"), ("ptr", "workspace")],
    )
    state, inputs, outputs, dims, workspace = r.params
    if size:
        _require(r, r.not_null(state), _NO_STATE)
    if program.buffers:
        _require(r, r.not_null(workspace), _NO_WORKSPACE)
    values = None if run is None else _sizes(r, run, dims)
    table = workspace if run is not None else r.at_byte(workspace, _aligned(program.arena_bytes))
    checked = [pointer for pointer, used in ((state, size), (workspace, program.buffers)) if used]
    _require_aligned(r, checked)
    for kind, pointers in (("input", inputs), ("output", outputs)):
        if any(b.kind == kind for b in program.buffers):
            _require(r, r.not_null(pointers), _NO_BUFFER)
    arena, offsets = workspace, dict[int, Val]()
    if run is not None and values is not None:
        arena = r.at_byte(workspace, run.arena)
        offsets = run.offsets(r, values)[0]
    for row, buffer in enumerate(program.buffers):
        match buffer.kind:
            case "moving":
                continue
            case "input" | "output":
                pointer = r.load_ptr(inputs if buffer.kind == "input" else outputs, buffer.index)
                _require(r, r.not_null(pointer), _NO_BUFFER)
                _require_aligned(r, [pointer])
            case "state":
                pointer = r.at_byte(state, buffer.offset)
            case "temporary":
                if row in offsets:
                    pointer = r.at_byte(arena, offsets[row])
                else:
                    pointer = r.at_byte(arena, buffer.offset)
            case "constant" if run is not None and buffer.index in run.arrays:
                pointer = r.at_byte(workspace, run.arrays[buffer.index])
            case "constant":
                pointer = module.global_text(
                    _constant(name, buffer.index), "external hidden constant [0 x i8]"
                )
        r.store(pointer, r.gep(table, row, "ptr"), 8)
    if run is not None and values is not None:
        plan = run.fill(r, values, workspace, plan)
    ctx = r.alloca("i64", CONTEXT.size, 64)
    for field, value in (
        ("error", i64(0)),
        ("table", table),
        ("dims", dims),
        ("arena", arena),
        ("counters", NULL),
        ("scratch", i64(0)),
    ):
        r.write(value, ctx, CONTEXT, field)
    error = r.call("i64", "run_serial", [ctx, plan])
    code = r.op("i64", f"lshr {error}, {NUMBER_BITS}")
    r.ret(r.op("i32", f"trunc {code} to i32"))


def _add_set_lr(module: ModuleText, program: Program, name: str, learning_rates: Sequence[int]) -> None:
    """`int set_lr(void *state, float lr)`."""
    r = Routine.start(module, f"{name}_set_lr", "i32", [("ptr", "state"), ("float", "lr")])
    state, rate = r.params
    _require(r, r.not_null(state), _NO_STATE)
    for buffer in program.of_kind("state"):
        if buffer.index not in learning_rates:
            continue
        wide = {"f32": "float", "f64": "double"}.get(buffer.type.dtype.name)
        if wide is None:
            raise ValueError(f"{program.name}: the learning rate is a {buffer.type}, expected f32 or f64")
        r.store(r.cast("fpext", rate, wide), r.at_byte(state, buffer.offset))
    r.ret(_code(0))


def _string(module: ModuleText, name: str, text: str) -> Val:
    body = text.encode() + b"\0"
    escaped = "".join(f"\\{byte:02X}" for byte in body)
    return module.global_text(name, f'private unnamed_addr constant [{len(body)} x i8] c"{escaped}"')


def _add_error(module: ModuleText, program: Program, name: str, requirements: Sequence[Requirement]) -> None:
    """`const char *error(int code)`."""
    r = Routine.start(module, f"{name}_error", "ptr", [("i32", "code")])
    checks = [failure_text(c.message, None) for c in program.checks]
    texts = {**ERRORS, **dict(enumerate([*checks, *(x.message for x in requirements)], 1))}
    labels = {code: r.label("code") for code in texts}
    unknown = r.label("unknown")
    cases = " ".join(f"i32 {code}, label %{label}" for code, label in labels.items())
    r.emit(f"switch {r.params[0]}, label %{unknown} [{cases}]")
    for position, (code, label) in enumerate(labels.items()):
        r.block(label)
        r.ret(_string(module, f"message.{position}", texts[code]))
    r.block(unknown)
    r.ret(_string(module, "message.unknown", "unknown error code"))
