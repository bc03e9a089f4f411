"""`save` and `load`: round trips, and files that are damaged, foreign or made to harm."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphc as torch
from graphc import nn

NESTS: list[Any] = [
    None,
    True,
    3,
    10**30,
    2.5,
    float("inf"),
    "text \u00e4",
    [1, [2, (3, 4)], {}],
    {"a": 1, 2: "b", None: [], (1, 2): 3.5},
    OrderedDict(x=1),
    {"nan": -float("inf")},
    torch.float16,
]


@pytest.mark.parametrize("nest", NESTS, ids=repr)
def test_plain_values(nest: Any) -> None:
    file = io.BytesIO()
    torch.save(nest, file)
    found = torch.load(file)
    assert found == nest and type(found) is type(nest)


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool],
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3, 4)])
def test_tensors(dtype: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    x = torch.tensor(np.arange(np.prod(shape, dtype=int)).reshape(shape) % 2 + 0.0).to(dtype)
    torch.save({"x": x}, tmp_path / "file.gc")
    found = torch.load(tmp_path / "file.gc")["x"]
    assert found.dtype is dtype and found.shape == shape and found.tolist() == x.tolist()


def test_views_and_shared_tensors() -> None:
    base = torch.arange(6.0)
    file = io.BytesIO()
    torch.save([base, base, base.view(2, 3).t()], file)
    a, b, c = torch.load(file)
    assert a is b and c.tolist() == [[0, 3], [1, 4], [2, 5]]


def test_checkpoint(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    net(torch.randn(4, 2)).square().sum().backward()
    optimizer.step()
    path = tmp_path / "checkpoint.gc"
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3}, path)
    saved = torch.load(path, map_location="cpu", weights_only=True)
    other = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    other.load_state_dict(saved["net"])
    again = torch.optim.Adam(other.parameters(), lr=0.5)
    again.load_state_dict(saved["optimizer"])
    assert again.param_groups[0]["lr"] == 0.1 and again.param_groups[0]["betas"] == (0.9, 0.999)
    assert other[0].weight.tolist() == net[0].weight.tolist()
    state, kept = again.state[other[0].weight], optimizer.state[net[0].weight]
    assert {k: v.tolist() for k, v in state.items()} == {k: v.tolist() for k, v in kept.items()}


def test_parameters_come_back_as_parameters() -> None:
    file = io.BytesIO()
    torch.save([nn.Parameter(torch.ones(2)), torch.ones(1, requires_grad=True)], file)
    p, x = torch.load(file)
    assert type(p) is nn.Parameter and p.requires_grad and type(x) is torch.Tensor and x.requires_grad


class Custom:
    """Something that cannot be saved."""


@pytest.mark.parametrize(
    "value",
    [Custom(), {1, 2}, b"bytes", Custom, lambda: 0, {Custom(): 1}],
    ids=["object", "set", "bytes", "class", "function", "key"],
)
def test_what_cannot_be_saved(value: Any) -> None:
    with pytest.raises(TypeError, match=r"graphc\.save"):
        torch.save(value, io.BytesIO())


def test_modules_name_state_dict() -> None:
    with pytest.raises(TypeError, match="state_dict"):
        torch.save({"net": nn.Linear(1, 1)}, io.BytesIO())


def test_cycles_and_depth() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(ValueError, match="itself"):
        torch.save(cycle, io.BytesIO())
    deep: Any = 0
    for _ in range(500):
        deep = [deep]
    with pytest.raises(ValueError, match="deep"):
        torch.save(deep, io.BytesIO())


def test_a_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.gc"
    torch.save(1, path)
    with pytest.raises(TypeError):
        torch.save(Custom(), path)
    assert torch.load(path) == 1 and [p.name for p in tmp_path.iterdir()] == ["file.gc"]


# -- files that are not ours -------------------------------------------------------------------------


def good() -> bytes:
    """A file with one tensor of 12 bytes."""
    file = io.BytesIO()
    torch.save({"x": torch.tensor([1.0, 2.0, 3.0])}, file)
    return file.getvalue()


def rebuilt(change: Callable[[dict[str, Any]], Any] = lambda index: None, **entries: bytes) -> bytes:
    """The good file with its index changed and entries (underscore for slash) replaced or added."""
    with zipfile.ZipFile(io.BytesIO(good())) as archive:
        content = {n: archive.read(n) for n in archive.namelist()}
    index = json.loads(content["graphc.json"])
    change(index)
    content["graphc.json"] = json.dumps(index).encode()
    content.update({k.replace("_", "/"): v for k, v in entries.items()})
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return file.getvalue()


def compressed() -> bytes:
    """A zip bomb: one entry that would unpack to far more than the file."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("graphc.json", b" " * 50_000_000)
    return file.getvalue()


def twice() -> bytes:
    """Two entries of one name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive, pytest.warns(UserWarning):
        archive.writestr("graphc.json", b"{}")
        archive.writestr("graphc.json", b"{}")
    return file.getvalue()


def flipped() -> bytes:
    """The good file with one byte of the tensor changed."""
    data = bytearray(good())
    at = bytes(data).index(np.float32([1, 2, 3]).tobytes())
    data[at] ^= 1
    return bytes(data)


class Bomb:
    """A pickle that would run code."""

    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('executed')",))


def set_tensor(**fields: Any) -> bytes:
    """The good file with the tensor's description changed."""
    return rebuilt(lambda index: index["tensors"][0].update(fields))


def set_root(root: Any) -> bytes:
    """The good file with another root."""
    return rebuilt(lambda index: index.update(root=root))


# fmt: off
BAD: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"hello world" * 10,
    "pickle": lambda: pickle.dumps(Bomb()),
    "truncated at the end": lambda: good()[:-10],
    "truncated in half": lambda: good()[: len(good()) // 2],
    "flipped byte": flipped,
    "foreign zip": lambda: rebuilt(lambda i: i.update(format="other")),
    "other version": lambda: rebuilt(lambda i: i.update(version=99)),
    "pytorch file": lambda: rebuilt(**{"archive_data.pkl": pickle.dumps(Bomb())}),
    "zip bomb": compressed,
    "entry twice": twice,
    "path outside": lambda: rebuilt(**{".._.._evil": b"x"}),
    "extra entry": lambda: rebuilt(tensors_1=b"x"),
    "index no json": lambda: rebuilt(**{"graphc.json": b"{"}),
    "index deep": lambda: rebuilt(**{"graphc.json": b"[" * 100_000}),
    "index a list": lambda: rebuilt(**{"graphc.json": b"[]"}),
    "too few bytes": lambda: rebuilt(tensors_0=b"1234"),
    "shape too large": lambda: set_tensor(shape=[2**62, 2**62]),
    "shape negative": lambda: set_tensor(shape=[-3]),
    "shape no list": lambda: set_tensor(shape="3"),
    "shape of floats": lambda: set_tensor(shape=[3.0]),
    "shape empty and huge": lambda: rebuilt(lambda i: i["tensors"][0].update(shape=[0, 2**39, 2**39]), tensors_0=b""),
    "dtype unknown": lambda: set_tensor(dtype="object"),
    "dtype no string": lambda: set_tensor(dtype=["float32"]),
    "grad of integers": lambda: set_tensor(dtype="int32", requires_grad=True),
    "bools of other bytes": lambda: rebuilt(lambda i: i["tensors"][0].update(dtype="bool", shape=[2]), tensors_0=b"\x02\x01"),
    "tensor number": lambda: set_root({"tensor": 5}),
    "tensor number negative": lambda: set_root({"tensor": -1}),
    "unknown kind": lambda: set_root({"call": "os.system"}),
    "two kinds": lambda: set_root({"list": [], "tuple": []}),
    "bare list": lambda: set_root([1, 2]),
    "dict not pairs": lambda: set_root({"dict": [[1]]}),
    "key not hashable": lambda: set_root({"dict": [[{"list": []}, 1]]}),
    "nested too deep": lambda: set_root(nested(300)),
}
# fmt: on


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = 0
    for _ in range(depth):
        value = {"list": [value]}
    return value


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
def test_bad_files(make: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / "bad.gc"
    path.write_bytes(make())
    with pytest.raises(torch.LoadError, match=r"bad\.gc.*Nothing in it was executed"):
        torch.load(path)


def test_every_prefix_is_refused() -> None:
    data = good()
    for length in range(0, len(data) - 1, 7):
        with pytest.raises(torch.LoadError):
            torch.load(io.BytesIO(data[:length]))


def test_every_flipped_bit_is_refused_or_harmless() -> None:
    """A changed byte gives LoadError, or (in fields that zip does not use) the same tensor."""
    data = good()
    for at in range(0, len(data), 3):
        changed = bytearray(data)
        changed[at] ^= 0x10
        try:
            found = torch.load(io.BytesIO(bytes(changed)))
        except torch.LoadError:
            continue
        assert found["x"].tolist() == [1, 2, 3]
