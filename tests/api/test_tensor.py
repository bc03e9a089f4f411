"""Tensors among Python and NumPy objects: protocols, sharing, copies, views."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import graphc as torch


def test_from_numpy_shares_both_ways() -> None:
    array = np.zeros(4, np.float32)
    x = torch.from_numpy(array)
    array[1] = 5
    assert x.tolist() == [0, 5, 0, 0]
    x[2] = 7
    assert array.tolist() == [0, 5, 7, 0]
    assert x.numpy() is array or np.shares_memory(x.numpy(), array)


def test_recorded_reads_see_the_moment_of_recording() -> None:
    array = np.ones(4, np.float32)
    x = torch.from_numpy(array)
    y = x + 1
    array[:] = 0
    assert y.tolist() == [2, 2, 2, 2]
    t = torch.ones(3)
    shared = t.numpy()
    z = t * 2
    shared[:] = 0
    assert z.tolist() == [2, 2, 2]
    assert t.tolist() == [0, 0, 0]


def test_writes_show_in_arrays_at_once() -> None:
    x = torch.zeros(2, 3)
    outside = x.numpy()
    x += 1
    assert outside.tolist() == [[1, 1, 1], [1, 1, 1]]
    x[1].mul_(5)
    assert outside.tolist() == [[1, 1, 1], [5, 5, 5]]
    p = torch.nn.Parameter(x)
    optimizer = torch.optim.SGD([p], lr=1.0)
    for expected in (0, -1, -2):
        optimizer.zero_grad()
        p.sum().backward()
        optimizer.step()
        assert outside[0].tolist() == [expected] * 3


def test_numpy_of_a_result_is_not_copied() -> None:
    x = torch.ones(8) * 3
    assert np.shares_memory(x.numpy(), x.numpy())


def test_array_protocol_and_functions() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert np.asarray(x).dtype == np.float32
    assert np.array(x, dtype=np.float64).tolist() == [[1, 2], [3, 4]]
    assert np.add(np.asarray(x), 1).tolist() == [[2, 3], [4, 5]]


def test_dlpack() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    array = np.from_dlpack(x)
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert torch.from_dlpack(np.arange(3)).tolist() == [0, 1, 2]
    assert x.__dlpack_device__() == (1, 0)


def test_dlpack_between_packages() -> None:
    other = pytest.importorskip("torch")
    theirs = other.arange(5.0)
    ours = torch.from_dlpack(theirs)
    assert ours.tolist() == [0, 1, 2, 3, 4]
    assert other.from_dlpack(torch.ones(3) * 2).tolist() == [2, 2, 2]


def test_arithmetic_with_arrays_and_numpy_numbers() -> None:
    x = torch.ones(3)
    assert (x * np.ones(3)).dtype is torch.float64
    assert (np.ones(3, np.float32) + x).tolist() == [2, 2, 2]
    assert (x + np.float64(2)).dtype is torch.float32
    assert (torch.arange(3) * np.float32(2)).dtype is torch.float32
    assert x[np.array([0, 2])].tolist() == [1, 1]


def test_python_protocols() -> None:
    x = torch.tensor([[1, 2], [3, 4]])
    assert len(x) == 2
    assert [row.tolist() for row in x] == [[1, 2], [3, 4]]
    assert 3 in x and 7 not in x
    assert hash(x) == id(x) and {x: 1}[x] == 1
    assert [10, 20][torch.tensor(1)] == 20
    assert list(range(torch.tensor(3))) == [0, 1, 2]
    assert int(torch.tensor(2.7)) == 2 and float(torch.tensor(3)) == 3.0
    assert bool(torch.tensor(0.0)) is False
    assert reversed(x).tolist() == [[3, 4], [1, 2]]
    a, b = torch.tensor([5, 6])
    assert (a.item(), b.item()) == (5, 6)


def test_deepcopy_and_copy() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    p.sum().backward()
    q = copy.deepcopy(p)
    assert type(q) is torch.nn.Parameter and q.requires_grad and q.is_leaf
    with torch.no_grad():
        q.add_(1)
    assert p.tolist() == [1, 1] and q.tolist() == [2, 2]
    x = torch.ones(2)
    assert copy.copy(x).data_ptr() == x.data_ptr()
    net = torch.nn.Linear(2, 2)
    twin = copy.deepcopy(net)
    assert twin.weight is not net.weight and twin.weight.tolist() == net.weight.tolist()


def test_data_attribute() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    p.data.mul_(3)
    assert p.tolist() == [3, 3]
    p.data = torch.zeros(2)
    assert p.tolist() == [0, 0] and p.requires_grad
    p.data = torch.zeros(3)
    assert p.shape == (3,)


def test_detach_shares_and_clone_does_not() -> None:
    x = torch.ones(3)
    d, c = x.detach(), x.clone()
    d[0] = 5
    assert x.tolist() == [5, 1, 1] and c.tolist() == [1, 1, 1]


def test_to_returns_itself_where_nothing_changes() -> None:
    x = torch.ones(2)
    assert x.to(torch.float32) is x and x.to("cpu") is x and x.float() is x and x.cpu() is x
    assert x.to(torch.float32, copy=True) is not x
    assert x.to("cpu", torch.float64).dtype is torch.float64
    assert x.to(torch.ones(1, dtype=torch.int32)).dtype is torch.int32
    assert x.type_as(torch.ones(1, dtype=torch.float64)).dtype is torch.float64


def test_size_is_a_tuple() -> None:
    shape = torch.ones(2, 3).shape
    assert shape == (2, 3) and shape[0] == 2 and shape.numel() == 6 and shape[1:] == torch.Size([3])
    assert repr(shape) == "graphc.Size([2, 3])"


def test_default_dtype() -> None:
    try:
        torch.set_default_dtype(torch.float64)
        assert torch.tensor(1.0).dtype is torch.float64
        assert (torch.arange(2) / 2).dtype is torch.float64
        assert torch.zeros(2).dtype is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert (torch.arange(2) / 2).dtype is torch.float32


def test_named_tuples_of_max() -> None:
    found = torch.tensor([[1.0, 5.0], [7.0, 2.0]]).max(1)
    assert found.values.tolist() == [5, 7] and found.indices.tolist() == [1, 0]
    values, indices = found
    assert values.tolist() == [5, 7] and indices.dtype is torch.int64


@pytest.mark.parametrize("name", ["float", "double", "half", "long", "int", "short", "bool"])
def test_dtype_names(name: str) -> None:
    dtype = getattr(torch, name)
    assert getattr(torch.ones(2), name)().dtype is dtype
    assert torch.zeros(1, dtype=dtype).dtype is dtype


def test_nonzero_and_masks_read_values() -> None:
    x = torch.tensor([[0, 1], [2, 0]])
    assert x.nonzero().tolist() == [[0, 1], [1, 0]]
    assert [i.tolist() for i in x.nonzero(as_tuple=True)] == [[0, 1], [1, 0]]
    assert torch.where(x > 0)[0].tolist() == [0, 1]
    assert x.masked_select(x > 1).tolist() == [2]


def test_public_functions_are_methods_too() -> None:
    """What PyTorch has both as a function and as a method graphc has both ways."""
    theirs = pytest.importorskip("torch")
    both = [n for n in torch.__all__ if callable(getattr(theirs, n, None)) and hasattr(theirs.Tensor, n)]
    assert len(both) > 150
    assert [n for n in both if not hasattr(torch.Tensor, n)] == []
