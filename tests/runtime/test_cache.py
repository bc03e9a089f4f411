"""The compile cache: round trips, damage, foreign and unsafe places."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from graphc.runtime import cache as cache_module
from graphc.runtime.cache import CompileCache, cache_key, default_directory

PAYLOAD = bytes(range(256)) * 100


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "cache"


def entry_of(directory: Path) -> Path:
    (path,) = directory.glob("*.entry")
    return path


def stored(directory: Path, payload: bytes = PAYLOAD) -> CompileCache:
    cache = CompileCache(directory)
    cache.put("key", payload)
    return cache


@pytest.mark.parametrize("payload", [b"", b"x", PAYLOAD, bytes(1_000_000)])
def test_round_trip(directory: Path, payload: bytes) -> None:
    cache = stored(directory, payload)
    assert cache.get("key") == payload
    assert cache.get("other") is None
    assert CompileCache(directory).get("key") == payload
    assert (cache.hits, cache.misses) == (1, 1)


def test_modes(directory: Path) -> None:
    stored(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    assert entry_of(directory).stat().st_mode & 0o777 == 0o600


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def lengthen(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(position: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[position] ^= 1
        path.write_bytes(content)

    return damage


def exchange(path: Path) -> None:
    """Another key's undamaged entry under this key's name."""
    other = CompileCache(path.parent)
    content = path.read_bytes()
    other.put("kez", b"theirs")
    (theirs,) = (p for p in path.parent.glob("*.entry") if p != path)
    theirs.replace(path)
    assert content != path.read_bytes()


def link(path: Path) -> None:
    target = path.parent.parent / "elsewhere"
    path.rename(target)
    path.symlink_to(target)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def writable_by_others(path: Path) -> None:
    path.chmod(0o666)


@pytest.mark.parametrize(
    "damage",
    [cut, lengthen, empty, flip(0), flip(10), flip(20), flip(30), flip(54), flip(-1), exchange, link, pipe,
     writable_by_others],
)  # fmt: skip
def test_damaged_or_foreign_entry_is_a_miss_and_heals(
    directory: Path, damage: Callable[[Path], None]
) -> None:
    cache = stored(directory)
    damage(entry_of(directory))
    assert cache.get("key") is None
    assert cache.get_or_make("key", lambda: b"anew") == b"anew"
    assert cache.get_or_make("key", lambda: b"not made") == b"anew"


def open_to_others(directory: Path) -> None:
    directory.mkdir(parents=True)
    directory.chmod(0o777)


def a_link(directory: Path) -> None:
    (directory.parent.parent / "real").mkdir()
    directory.parent.mkdir()
    directory.symlink_to(directory.parent.parent / "real")


def a_file(directory: Path) -> None:
    directory.parent.mkdir()
    directory.write_text("")


def below_a_file(directory: Path) -> None:
    directory.parent.write_text("")


@pytest.mark.parametrize("prepare", [open_to_others, a_link, a_file, below_a_file])
def test_unsafe_directory_is_not_used(directory: Path, prepare: Callable[[Path], None]) -> None:
    prepare(directory)
    with pytest.warns(RuntimeWarning, match="GRAPHC_CACHE_DIR"):
        cache = CompileCache(directory)
    assert not cache.enabled
    cache.put("key", PAYLOAD)
    assert cache.get("key") is None
    assert not list(directory.parent.parent.rglob("*.entry"))


def test_directory_of_another_user_is_not_used(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored(directory)
    user = os.geteuid()
    monkeypatch.setattr(cache_module.os, "geteuid", lambda: user + 1)
    with pytest.warns(RuntimeWarning, match="belongs to another user"):
        assert not CompileCache(directory).enabled


def test_directory_that_vanishes(directory: Path) -> None:
    cache = stored(directory)
    entry_of(directory).unlink()
    directory.rmdir()
    cache.put("key", PAYLOAD)
    assert cache.get("key") is None


def test_no_cache_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = CompileCache(None)
    assert cache.get_or_make("key", lambda: b"made") == b"made"
    assert cache.get("key") is None


def test_prune_keeps_the_newest(directory: Path) -> None:
    cache = CompileCache(directory, max_bytes=3500)
    for age in range(5):
        cache.put(f"key{age}", bytes(1000))
        name = cache_module._file_name(f"key{age}")
        os.utime(directory / name, (1e9 - age, 1e9 - age))
    (directory / ".partial-old").write_bytes(b"")
    os.utime(directory / ".partial-old", (1, 1))
    (directory / ".partial-new").write_bytes(b"")
    (directory / "a user's file").write_bytes(bytes(10_000))
    cache.prune()
    assert [cache.get(f"key{age}") is not None for age in range(5)] == [True, True, True, False, False]
    assert sorted(p.name for p in directory.iterdir() if p.suffix != ".entry") == [
        ".partial-new",
        "a user's file",
    ]


WRITERS = """
import sys
from pathlib import Path
from graphc.runtime.cache import CompileCache
cache = CompileCache(Path(sys.argv[1]))
for n in range(300):
    cache.put("key", bytes([n % 256]) * 50_000)
    found = cache.get("key")
    assert found is None or (len(found) == 50_000 and len(set(found)) == 1)
"""


def test_two_processes_write_the_same_entry(directory: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", WRITERS, str(directory)]) for _ in range(2)]
    assert [p.wait() for p in processes] == [0, 0]
    assert len(list(directory.iterdir())) == 1


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (("kernel", "tool", "ab"), ("kernel", "tool", "a", "b")),
        (("kernel", "tool", "ab"), ("program", "tool", "ab")),
        (("kernel", "tool", "ab"), ("kernel", "tool 2", "ab")),
        (("kernel", "tool", "ab"), ("kernel", "tool", "ac")),
    ],
)
def test_keys_differ(a: tuple[str, ...], b: tuple[str, ...]) -> None:
    assert cache_key(*a) == cache_key(*a)
    assert cache_key(*a) != cache_key(*b)


def test_key_depends_on_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache_key("kernel", "tool")
    monkeypatch.setattr(cache_module, "source_digest", lambda: "other sources")
    assert cache_key("kernel", "tool") != before


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"GRAPHC_CACHE_DIR": "/somewhere/here", "XDG_CACHE_HOME": "/x"}, Path("/somewhere/here")),
        ({"GRAPHC_CACHE_DIR": "", "XDG_CACHE_HOME": "/x"}, None),
        ({"XDG_CACHE_HOME": "/x"}, Path("/x/graphc")),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/home/me"}, Path("/home/me/.cache/graphc")),
        ({"HOME": "/home/me"}, Path("/home/me/.cache/graphc")),
    ],
)
def test_default_directory(
    environment: dict[str, str], expected: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GRAPHC_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert default_directory() == expected
