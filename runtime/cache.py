"""The compile cache on disk: finished plans and objects by key.

An entry carries its key, its length and a SHA-256 of everything, and is bytes only: nothing in
it is executed by reading it. The directory is used only if it belongs to the user and nobody
else may write to it; all files are opened relative to the directory once checked, without
following links. Invariant: whatever is damaged, foreign or unreadable is a miss, never an
error, and a reader sees either a whole entry or none.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import stat
import struct
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

__all__ = ["CompileCache", "cache_key", "default_cache", "default_directory", "source_digest"]

_MAGIC = b"graphc\x00\x01"
_HEAD = struct.Struct("<8sIQ32s")
_SUFFIX = ".entry"
_PARTIAL = ".partial-"
_MAX_BYTES = 4 << 30
"""Size above which the oldest entries go."""
_PUTS_BETWEEN_PRUNES = 256
_ABANDONED_SECONDS = 3600.0
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW


@functools.cache
def source_digest() -> str:
    """SHA-256 of graphc's own sources: a change in any of them changes every key.

    Kept on disk by the files' sizes and times, since reading them takes ten times as long as looking at these.
    """
    package = Path(__file__).parent.parent / "graphc"
    root = str(package if package.is_dir() else package.parent)
    files = sorted(_sources(root, ""))
    cache = default_cache()
    if not cache.enabled:
        return _digest_of_files(root, files)
    seen = hashlib.sha256(repr((root, files)).encode()).hexdigest()
    return cache.get_or_make(f"sources-{seen}", lambda: _digest_of_files(root, files).encode()).decode()


def _sources(root: str, below: str) -> Iterator[tuple[str, int, int]]:
    """Path below `root`, size and time of change of each source file; links are followed."""
    with os.scandir(os.path.join(root, below)) as entries:
        for entry in entries:
            path = os.path.join(below, entry.name)
            if entry.name.endswith(".py"):
                status = entry.stat()
                yield path, status.st_size, status.st_mtime_ns
            elif entry.name != "__pycache__" and entry.is_dir():
                yield from _sources(root, path)


def _digest_of_files(root: str, files: Sequence[tuple[str, int, int]]) -> str:
    digest = hashlib.sha256()
    for path, *_ in files:
        with open(os.path.join(root, path), "rb", buffering=0) as file:
            body = file.read()
        digest.update(f"{path} {len(body)}\n".encode())
        digest.update(body)
    return digest.hexdigest()


def cache_key(kind: str, toolchain: str, *parts: str | bytes) -> str:
    """A key from everything an entry depends on besides graphc's sources, which are included."""
    digest = hashlib.sha256()
    for part in (kind, toolchain, source_digest(), *parts):
        body = part.encode() if isinstance(part, str) else part
        digest.update(struct.pack("<Q", len(body)))
        digest.update(body)
    return f"{kind}-{digest.hexdigest()}"


def default_directory() -> Path | None:
    """`GRAPHC_CACHE_DIR` (none where it is empty), else `graphc` under the user's cache directory."""
    configured = os.environ.get("GRAPHC_CACHE_DIR")
    if configured is not None:
        return Path(configured).absolute() if configured else None
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "graphc"
    except RuntimeError:  # no home directory
        return None


def _trusted(status: os.stat_result) -> bool:
    """Owned by this user, and nobody else may write."""
    return status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _open_directory(path: Path) -> int:
    """A descriptor of the checked directory, made if absent. Raises OSError with the reason."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _OPEN)
    if not _trusted(os.fstat(descriptor)):
        os.close(descriptor)
        raise PermissionError("it belongs to another user or others may write to it (expected mode 0700)")
    return descriptor


class CompileCache:
    """Entries in one directory. With `directory` None, or one that is not safe, nothing is kept."""

    def __init__(self, directory: Path | None, *, max_bytes: int = _MAX_BYTES) -> None:
        self.directory = directory
        self.hits = 0
        self.misses = 0
        self._max_bytes = max_bytes
        self._puts = 0
        self._descriptor: int | None = None
        if directory is None:
            return
        try:
            self._descriptor = _open_directory(directory)
        except OSError as error:
            warnings.warn(
                f"graphc's compile cache is off: {directory}: {error}; "
                "set GRAPHC_CACHE_DIR to a directory of your own",
                RuntimeWarning,
                stacklevel=3,
            )

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # `os` may be gone at exit
        if self._descriptor is not None:
            close(self._descriptor)

    @property
    def enabled(self) -> bool:
        """Whether entries are kept on disk."""
        return self._descriptor is not None

    def get(self, key: str) -> bytes | None:
        """The payload stored under `key`, or None."""
        payload = None
        if self._descriptor is not None:
            name = _file_name(key)
            try:
                content = self._read(name)
                payload = _payload(content, key)
                if payload is None:
                    os.unlink(name, dir_fd=self._descriptor)
            except OSError:
                payload = None
        self.hits += payload is not None
        self.misses += payload is None
        return payload

    def put(self, key: str, payload: bytes) -> None:
        """Stores `payload` under `key`, replacing what was there; a failure to write is not an error."""
        if self._descriptor is None:
            return
        body = key.encode()
        head = (_MAGIC, len(body), len(payload))
        content = b"".join((_HEAD.pack(*head, _digest(head, body, payload)), body, payload))
        partial = f"{_PARTIAL}{secrets.token_hex(16)}"
        try:
            self._write(partial, content)
            os.rename(partial, _file_name(key), src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(partial, dir_fd=self._descriptor)
            return
        if self._puts % _PUTS_BETWEEN_PRUNES == 0:
            self.prune()
        self._puts += 1

    def get_or_make(self, key: str, make: Callable[[], bytes]) -> bytes:
        """The payload under `key`; makes and stores it where there is none."""
        payload = self.get(key)
        if payload is None:
            payload = make()
            self.put(key, payload)
        return payload

    def prune(self) -> None:
        """Removes the oldest entries above the size limit, and files that a killed writer left."""
        if self._descriptor is None:
            return
        found = []
        total = 0
        for name in os.listdir(self._descriptor):
            if not name.endswith(_SUFFIX) and not name.startswith(_PARTIAL):
                continue
            with contextlib.suppress(OSError):
                status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
                if name.startswith(_PARTIAL):
                    if time.time() - status.st_mtime > _ABANDONED_SECONDS:
                        os.unlink(name, dir_fd=self._descriptor)
                    continue
                found.append((status.st_mtime, status.st_size, name))
                total += status.st_size
        for _, size, name in sorted(found):
            if total <= self._max_bytes:
                break
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._descriptor)
                total -= size

    def _read(self, name: str) -> bytes:
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _OPEN, dir_fd=self._descriptor)
        with open(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or not _trusted(status):
                return b""
            return file.read()

    def _write(self, name: str, content: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN
        descriptor = os.open(name, flags, 0o600, dir_fd=self._descriptor)
        with open(descriptor, "wb") as file:
            file.write(content)


def _file_name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest() + _SUFFIX


def _digest(head: tuple[bytes, int, int], key: bytes, payload: bytes) -> bytes:
    digest = hashlib.sha256(_HEAD.pack(*head, bytes(32)))
    digest.update(key)
    digest.update(payload)
    return digest.digest()


def _payload(content: bytes, key: str) -> bytes | None:
    """The payload of a whole, undamaged entry of `key`; None for anything else."""
    if len(content) < _HEAD.size:
        return None
    magic, key_length, payload_length, digest = _HEAD.unpack_from(content)
    body = key.encode()
    if magic != _MAGIC or key_length != len(body) or len(content) != _HEAD.size + key_length + payload_length:
        return None
    start = _HEAD.size + key_length
    payload = content[start:]
    if (
        content[_HEAD.size : start] != body
        or _digest((magic, key_length, payload_length), body, payload) != digest
    ):
        return None
    return payload


@functools.cache
def default_cache() -> CompileCache:
    """The process's cache, in `default_directory()` as it was at first use."""
    return CompileCache(default_directory())
