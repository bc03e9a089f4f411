"""Kernel text. `graphc.ir.kernel_parser` reads it back to an equal kernel.

    kernel (b0: f32[64, 1000] in, b1: f32[64] out) axes (i0 < 64) checks 0 {
      reduce (r0 < 1000) init (f32 0.0) {
        %0: f32 = load b0[i0, r0]
        yield %0
      } combine (%1) (%2) {
        %3: f32 = add %1, %2
        yield %3
      } -> (%4)
      map () {
        store b1[i0] = %4
      }
      schedule loops parts 2 {
        loops i0 parallel
        stage r0 vector 8
        stage
      }
    }

A chain has links in place of stages: a line `link (b0, b1)` with the buffers that are the parameters of the kernel
that follows, behind `partial (b2)` where buffers are made in part.

Further spellings: `load b0[i0-1] where (i0-1 in 0 .. 64) else %5`, `store b1[i0] += %4`,
`%6: i64 = to_index %5 below 10 check 0`, `%7: f32 = const 1.5`, `%8: i64 = index 3*i0`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from graphc.ir.attributes import attribute_text
from graphc.ir.dims import Symbol
from graphc.ir.kernel import Combine, Instruction, Kernel, Loop, Schedule, Stage, kernel_sizes

__all__ = ["instruction_text", "kernel_text"]


def kernel_text(kernel: Kernel) -> str:
    """The whole kernel, with its schedule where it has one."""
    buffers = ", ".join(f"b{n}: {b.type} {b.access}" for n, b in enumerate(kernel.buffers))
    sizes = ", ".join(f"{s.name}: {s.lo}..{'' if s.hi is None else s.hi}" for s in kernel_sizes(kernel))
    where = f" sizes ({sizes})" if sizes else ""
    lines = [f"kernel ({buffers}) axes ({_axes(kernel.axes)}) checks {kernel.checks}{where} {{"]
    for stage in kernel.stages:
        lines += _stage(stage)
    if kernel.partial:
        lines.append(f"  partial ({', '.join(f'b{n}' for n in kernel.partial)})")
    for link in kernel.links:
        bound = ", ".join(f"b{n}" for n in link.buffers)
        lines += [f"  link ({bound})", *(f"  {line}" for line in kernel_text(link.kernel).splitlines())]
    if kernel.schedule is not None:
        lines += _schedule(kernel.schedule)
    return "\n".join([*lines, "}"])


def instruction_text(i: Instruction) -> str:
    """One instruction as a line."""
    operands = ", ".join(f"%{o}" for o in i.operands)
    place = f"b{i.buffer}[{', '.join(map(str, i.index))}]"
    where = ""
    if i.guards:
        where = f" where ({'; '.join(f'{x} in {lo} .. {hi}' for x, lo, hi in i.guards)})"
    match i.opcode:
        case "store":
            sign = "+=" if i.value == "add" else "="
            return f"store {place} {sign} {operands} as {i.dtype.name}{where}"
        case "yield":
            return f"yield {operands}"
        case "load":
            body = f"load {place}{where}" + (f" else {operands}" if i.operands else "")
        case "const":
            body = f"const {attribute_text(i.value)}"
        case "index":
            body = f"index {i.index[0]}"
        case "to_index":
            body = f"to_index {operands} below {i.index[0]}" + (
                f" check {i.value}" if i.value is not None else ""
            )
        case _:
            body = f"{i.opcode} {operands}"
    return f"%{i.id}: {i.dtype.name} = {body}"


def _axes(axes: Iterable[Symbol]) -> str:
    return ", ".join(f"{a.name} < {_size_text(a)}" for a in axes)


def _size_text(axis: Symbol) -> str:
    if axis.size is not None:
        return str(axis.size)
    return "?" if axis.hi is None else str(axis.hi + 1)


def _numbers(ids: Iterable[int]) -> str:
    return f"({', '.join(f'%{n}' for n in ids)})"


def _body(body: Iterable[Instruction]) -> list[str]:
    return [f"    {instruction_text(i)}" for i in body]


def _stage(stage: Stage) -> list[str]:
    init = ""
    if stage.init or stage.kind == "reduce":
        init = f" init ({', '.join(f'{d.name} {attribute_text(v)}' for d, v in stage.init)})"
    lines = [f"  {stage.kind} ({_axes(stage.axes)}){init} {{", *_body(stage.body)]
    if stage.combine is not None:
        lines += _combine(stage.combine)
    results = f" -> {_numbers(stage.results)}" if stage.results else ""
    return [*lines, f"  }}{results}"]


def _combine(how: Combine) -> list[str]:
    head = f"  }} combine {_numbers(how.left)} {_numbers(how.right)} {{"
    return [head, *_body(how.body), f"    yield {', '.join(f'%{n}' for n in how.results)}"]


def _loops(loops: Sequence[Loop]) -> str:
    return ", ".join(f"{x.axis} {x.role}" + (f" {x.size}" if x.size else "") for x in loops)


def _schedule(schedule: Schedule) -> list[str]:
    stages = [f"    stage {_loops(s)}".rstrip() for s in schedule.stages]
    plan = f' plan "{schedule.plan}"' if schedule.plan else ""
    return [
        f"  schedule {schedule.engine} parts {schedule.parts}{plan} {{",
        f"    loops {_loops(schedule.loops)}".rstrip(),
        *stages,
        "  }",
    ]
