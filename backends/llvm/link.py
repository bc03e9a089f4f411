"""Objects to a shared library, with the system's linker driver.

Nothing is compiled: the driver only links. Exported are the functions whose names start with
the library's prefix; everything else stays inside.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from graphc.ir.errors import CompileError, MissingToolError
from graphc.ir.target import Target

__all__ = ["link_shared"]

_FLAGS = (
    "-shared",
    "-nostartfiles",
    "-Wl,--as-needed",
    "-Wl,--build-id=none",
    "-Wl,--no-undefined",
    "-Wl,-z,noexecstack",
    "-Wl,-z,relro",
    "-Wl,-z,now",
)


def _linker(target: Target) -> list[str]:
    """Command of a driver that links for `target`. Raises `MissingToolError`."""
    arch = target.triple.partition("-")[0].replace("arm64", "aarch64")
    native = platform.machine().replace("arm64", "aarch64") == arch
    if native:
        candidates = [["cc"], ["gcc"], ["clang"]]
        install = "install a C toolchain (Debian and Ubuntu: gcc; Fedora: gcc; Alpine: build-base)"
    else:
        candidates = [[f"{arch}-linux-gnu-gcc"], ["clang", f"--target={target.triple}", "-fuse-ld=lld"]]
        install = f"install a cross linker (Debian and Ubuntu: gcc-{arch.replace('_', '-')}-linux-gnu)"
    for command in candidates:
        path = shutil.which(command[0])
        if path is not None:
            return [path, *command[1:]]
    names = ", ".join(command[0] for command in candidates)
    raise MissingToolError(
        f"exporting a library needs a linker for {arch}, but none of {names} is there; {install}"
    )


def link_shared(
    objects: Sequence[bytes],
    path: str | os.PathLike[str],
    target: Target,
    *,
    exports: Sequence[str],
    libraries: Sequence[str] = (),
) -> Path:
    """Links objects into the shared library `path` and returns it.

    `exports` are the only visible symbols (`*` matches); `libraries` are names for `-l`. The
    file is replaced as a whole. Raises `MissingToolError` without a linker and `CompileError`
    where it fails.
    """
    result = Path(path)
    result.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="graphc-", dir=result.parent) as directory:
        scratch = Path(directory)
        files = []
        for number, code in enumerate(objects):
            files.append(scratch / f"{number}.o")
            files[-1].write_bytes(code)
        script = scratch / "exports"
        script.write_text("{ global: " + "".join(f"{name}; " for name in exports) + "local: *; };\n")
        output = scratch / result.name
        command = [
            *_linker(target),
            *_FLAGS,
            f"-Wl,-soname,{result.name}",
            f"-Wl,--version-script={script}",
            "-o",
            str(output),
            *map(str, files),
            *(f"-l{name}" for name in libraries),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CompileError(f"linking {result.name} failed: {done.stderr.strip() or done.stdout.strip()}")
        os.replace(output, result)
    return result
