"""The C header and the C example of an exported library. No arithmetic of the model is in them."""

from __future__ import annotations

from collections.abc import Iterable

from graphc.exporting.interface import BufferInfo, DimInfo, Interface

__all__ = ["example_text", "header_text"]

_C_TYPES = {
    "bool": "uint8_t", "u8": "uint8_t", "i8": "int8_t", "i16": "int16_t", "i32": "int32_t", "i64": "int64_t",
    "f16": "uint16_t", "bf16": "uint16_t", "f32": "float", "f64": "double",
}  # fmt: skip

_KINDS = {
    "bool": "BITS8", "u8": "BITS8", "i8": "INT8", "i16": "INT16", "i32": "INT32", "i64": "INT64",
    "f16": "BITS16", "bf16": "BITS16", "f32": "FLOAT32", "f64": "FLOAT64",
}  # fmt: skip


def _comment(text: str) -> str:
    """`text` on one line that cannot end a comment: names of Modules may hold anything."""
    return "".join(c if c.isprintable() else "?" for c in text).replace("*/", "* /").replace("/*", "/ *")


def _string(text: str) -> str:
    """A C string literal in ASCII."""
    body = "".join(
        chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}"
        for b in text.encode("utf-8", "replace")
    )
    return f'"{body}"'


def _macros(prefix: str, kind: str, buffers: Iterable[BufferInfo]) -> list[str]:
    rows = list(buffers)
    lines = [f"#define {prefix}_{kind}_COUNT {len(rows)}"]
    for i, b in enumerate(rows):
        lines.append(f"/* {_comment(b.name)}: {b.type}{', ' + b.role if b.role else ''} */")
        lines.append(f"#define {prefix}_{kind}_{i}_NAME {_string(b.name)}")
        lines.append(f"#define {prefix}_{kind}_{i}_CTYPE {_C_TYPES[b.dtype]}")
        lines.append(f'#define {prefix}_{kind}_{i}_DTYPE "{b.dtype}"')
        lines.append(f"#define {prefix}_{kind}_{i}_RANK {len(b.shape)}")
        if not b.type.is_static:
            lines.append(f"#define {prefix}_{kind}_{i}_ITEM_BYTES {b.type.dtype.itemsize}")
            continue
        if b.shape:
            lines.append(f"#define {prefix}_{kind}_{i}_SHAPE {{{', '.join(map(str, b.shape))}}}")
        lines.append(f"#define {prefix}_{kind}_{i}_NUMEL {b.type.numel}")
        lines.append(f"#define {prefix}_{kind}_{i}_BYTES {b.type.nbytes}")
        if kind == "STATE":
            lines.append(f"#define {prefix}_{kind}_{i}_OFFSET {b.offset}")
    return lines


def _dim_macros(prefix: str, dims: Iterable[DimInfo]) -> list[str]:
    """Names and bounds of the sizes that callers pass."""
    lines = []
    for i, d in enumerate(dims):
        lines.append(f"#define {prefix}_DIM_{i}_NAME {_string(d.name)}")
        lines.append(f"#define {prefix}_DIM_{i}_MIN {d.min}")
        lines.append(f"#define {prefix}_DIM_{i}_MAX {'INT64_MAX' if d.max is None else d.max}")
    return lines


def header_text(interface: Interface) -> str:
    """`<name>.h`."""
    n, upper = interface.name, interface.name.upper()
    shapes, sizes = "", "dims may be NULL because there are no named dims."
    workspace = f"\n#define {upper}_WORKSPACE_BYTES {interface.workspace_bytes}"
    if interface.dims:
        workspace = ""
        named = ", ".join(d.name for d in interface.dims)
        sizes = f"dims are the sizes {named}; 0 for sizes that are not served."
        shapes = f"""
/* Writes the sizes of an input or output, as many as its RANK, into shape. Returns an error code for sizes that are
 * not served. */
int {n}_input_shape(int number, const int64_t *dims, int64_t *shape);
int {n}_output_shape(int number, const int64_t *dims, int64_t *shape);
"""
    set_lr = ""
    if interface.has_learning_rate:
        set_lr = f"""
/* Sets the learning rate of the next runs, for every parameter group. */
int {n}_set_lr(void *state, float lr);
"""
    macros = "\n".join(
        _dim_macros(upper, interface.dims)
        + _macros(upper, "INPUT", interface.inputs)
        + _macros(upper, "OUTPUT", interface.outputs)
        + _macros(upper, "STATE", interface.states)
    )
    return f"""/* {n}: compiled by graphc for {interface.target}.
 *
 * Every buffer is row-major, contiguous and aligned to 64 bytes. The library keeps nothing of its
 * own: the caller gives state and workspace, so calls on different ones may run at once. Functions
 * that return int return 0 for success; {n}_error(code) says what another code means. After an
 * error nothing in the state has changed.
 */
#ifndef GRAPHC_{upper}_H
#define GRAPHC_{upper}_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define {upper}_ABI_VERSION {interface.abi_version}
#define {upper}_ALIGNMENT 64
#define {upper}_STATE_BYTES {interface.state_bytes}{workspace}
#define {upper}_DIM_COUNT {len(interface.dims)}

{macros}

int {n}_abi_version(void);

/* Digest of the interface file that belongs to this library. */
const char *{n}_fingerprint(void);

/* Bytes of the state block; 0 where there is none. */
size_t {n}_state_size(void);

/* Bytes of the workspace; {sizes} */
size_t {n}_workspace_size(const int64_t *dims);
{shapes}
/* Fills the state block: from weights (laid out like the state block), or from the embedded ones
 * where weights is NULL. */
int {n}_init(void *state, const void *weights);

/* One call: reads {upper}_INPUT_COUNT inputs, writes {upper}_OUTPUT_COUNT outputs, updates the state. */
int {n}_run(void *state, const void *const *inputs, void *const *outputs, const int64_t *dims, void *workspace);
{set_lr}
const char *{n}_error(int code);

#ifdef __cplusplus
}}
#endif

#endif
"""


def example_text(interface: Interface) -> str:
    """`<name>_example.c`: runs the library on records of a file and prints the outputs."""
    n, upper = interface.name, interface.name.upper()

    def count(kind: str, i: int, b: BufferInfo, unit: str) -> str:
        """C text of how many elements or bytes a buffer has."""
        if b.type.is_static:
            return f"{upper}_{kind}_{i}_{unit}"
        number = f"count({n}_{kind.lower()}_shape, {i}, {upper}_{kind}_{i}_RANK, dims)"
        return number if unit == "NUMEL" else f"{number} * {upper}_{kind}_{i}_ITEM_BYTES"

    inner = [count("INPUT", i, b, "BYTES") for i, b in enumerate(interface.inputs)]
    outer = [count("OUTPUT", i, b, "BYTES") for i, b in enumerate(interface.outputs)]
    reads = "\n".join(
        f"        got = fread(input{i}, 1, {size}, file);\n        if (got != {size}) break;"
        for i, size in enumerate(inner)
    )
    declare = "\n".join(f"    void *input{i} = block({size});" for i, size in enumerate(inner))
    declare += "\n" + "\n".join(f"    void *output{i} = block({size});" for i, size in enumerate(outer))
    dims, usage, functions, state_at = "NULL", "inputs.bin [state.bin]", "", 2
    if interface.dims:
        dims, state_at = "dims", 2 + len(interface.dims)
        usage = f"inputs.bin {' '.join(d.name.upper() for d in interface.dims)} [state.bin]"
        functions = f"""
static size_t count(int (*shape_of)(int, const int64_t *, int64_t *), int number, int rank, const int64_t *dims) {{
    int64_t shape[64];
    int code = shape_of(number, dims, shape);
    if (code != 0) {{
        fprintf(stderr, "%s\\n", {n}_error(code));
        exit(1);
    }}
    size_t found = 1;
    for (int k = 0; k < rank; k++) found *= (size_t)shape[k];
    return found;
}}
"""
        declare = (
            f"    int64_t dims[{upper}_DIM_COUNT];\n    for (int k = 0; k < {upper}_DIM_COUNT; k++) "
            f"dims[k] = strtoll(argv[2 + k], NULL, 10);\n{declare}"
        )
    inputs = ", ".join(f"input{i}" for i in range(len(interface.inputs))) or "NULL"
    outputs = ", ".join(f"output{i}" for i in range(len(interface.outputs))) or "NULL"
    prints = "\n".join(
        f'        print_values("output {i}", output{i}, {count("OUTPUT", i, b, "NUMEL")}, {_KINDS[b.dtype]});'
        for i, b in enumerate(interface.outputs)
    )
    states = "\n".join(
        f"        print_values({_string('state ' + b.name)}, (char *)state + {upper}_STATE_{i}_OFFSET, "
        f"{upper}_STATE_{i}_NUMEL, {_KINDS[b.dtype]});"
        for i, b in enumerate(interface.states)
        if b.written
    )
    finish = f"\n    if (code == 0) {{\n{states}\n    }}" if states else ""
    frees = "\n".join(
        [f"    free(input{i});" for i in range(len(interface.inputs))]
        + [f"    free(output{i});" for i in range(len(interface.outputs))]
    )
    return f"""/* Runs {n} on a file of input records and prints the outputs of each run.
 *
 *   cc -std=c11 -Wall -Wextra -Werror {n}_example.c lib{n}.so -Wl,-rpath,'$ORIGIN' -o {n}_example
 *   ./{n}_example {usage}
 *
 * A record is every input in order, row-major, one after another. At the end come the states that
 * runs change; the whole state block is written to state.bin where it is named. Floats are printed
 * exactly, as hexadecimal ones.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "{n}.h"

static void *block(size_t bytes) {{
    size_t rounded = (bytes + {upper}_ALIGNMENT) / {upper}_ALIGNMENT * {upper}_ALIGNMENT;
    void *memory = aligned_alloc({upper}_ALIGNMENT, rounded);
    if (memory == NULL) {{
        fprintf(stderr, "out of memory\\n");
        exit(1);
    }}
    memset(memory, 0, rounded);
    return memory;
}}

{functions}enum kind {{ BITS8, INT8, INT16, INT32, INT64, BITS16, FLOAT32, FLOAT64 }};

static void print_values(const char *name, const void *values, size_t count, enum kind kind) {{
    printf("%s:", name);
    for (size_t k = 0; k < count; k++) {{
        switch (kind) {{
        case BITS8: printf(" %" PRIu8, ((const uint8_t *)values)[k]); break;
        case INT8: printf(" %" PRId8, ((const int8_t *)values)[k]); break;
        case INT16: printf(" %" PRId16, ((const int16_t *)values)[k]); break;
        case INT32: printf(" %" PRId32, ((const int32_t *)values)[k]); break;
        case INT64: printf(" %" PRId64, ((const int64_t *)values)[k]); break;
        case BITS16: printf(" 0x%04" PRIx16, ((const uint16_t *)values)[k]); break;
        case FLOAT32: printf(" %a", (double)((const float *)values)[k]); break;
        case FLOAT64: printf(" %a", ((const double *)values)[k]); break;
        }}
    }}
    printf("\\n");
}}

int main(int argc, char **argv) {{
    if (argc < {state_at} || {n}_abi_version() != {upper}_ABI_VERSION) {{
        fprintf(stderr, "usage: %s {usage}\\n", argv[0]);
        return 2;
    }}
    FILE *file = fopen(argv[1], "rb");
    if (file == NULL) {{
        perror(argv[1]);
        return 1;
    }}
{declare}
    void *state = block({n}_state_size());
    void *workspace = block({n}_workspace_size({dims}));
    const void *const inputs[] = {{{inputs}}};
    void *const outputs[] = {{{outputs}}};
    int code = {n}_init(state, NULL);
    size_t got = 0;
    for (int run = 0; code == 0; run++) {{
{reads}
        code = {n}_run(state, inputs, outputs, {dims}, workspace);
        if (code != 0) break;
        printf("run %d\\n", run);
{prints}
{"        if (run >= 0) break;" if not interface.inputs else ""}
    }}
    (void)got;
    fclose(file);{finish}
    if (code != 0) fprintf(stderr, "%s\\n", {n}_error(code));
    if (code == 0 && argc > {state_at}) {{
        FILE *saved = fopen(argv[{state_at}], "wb");
        if (saved == NULL || fwrite(state, 1, {n}_state_size(), saved) != {n}_state_size()) code = 1;
        if (saved != NULL && fclose(saved) != 0) code = 1;
    }}
{frees}
    free(state);
    free(workspace);
    return code == 0 ? 0 : 1;
}}
"""
