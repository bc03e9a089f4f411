"""Datasets, samplers, collation and the DataLoader."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest

import graphc as torch
from graphc.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    random_split,
)


class Squares(Dataset[Any]):
    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Any:
        return {"x": torch.tensor([float(index)]), "y": index**2, "name": str(index)}


class Counting(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(range(5))


def rows_of(loader: DataLoader) -> list[list[float]]:
    return [batch[0].tolist() for batch in loader]


def test_batches_in_order() -> None:
    data = TensorDataset(torch.arange(7.0), torch.arange(7))
    assert rows_of(DataLoader(data, batch_size=3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert rows_of(DataLoader(data, batch_size=3, drop_last=True)) == [[0, 1, 2], [3, 4, 5]]
    assert (
        len(DataLoader(data, batch_size=3)) == 3 and len(DataLoader(data, batch_size=3, drop_last=True)) == 2
    )
    assert DataLoader(data, batch_size=2).dataset is data


def test_shuffle_is_seeded_and_new_in_every_epoch() -> None:
    data = TensorDataset(torch.arange(50.0))
    torch.manual_seed(3)
    loader = DataLoader(data, batch_size=50, shuffle=True)
    first, second = rows_of(loader)[0], rows_of(loader)[0]
    assert sorted(first) == sorted(second) == list(range(50)) and first != second
    torch.manual_seed(3)
    assert rows_of(DataLoader(data, batch_size=50, shuffle=True))[0] == first
    own = [
        rows_of(DataLoader(data, batch_size=50, shuffle=True, generator=torch.Generator().manual_seed(1)))
        for _ in range(2)
    ]
    assert own[0] == own[1]


def test_loading_compiles_nothing() -> None:
    data = TensorDataset(torch.randn(40, 3), torch.randint(0, 5, (40,)))
    torch.realize()
    list(DataLoader(data, batch_size=8, shuffle=True))
    before = torch.core.cache_size()
    for batch in (4, 5, 6):
        list(DataLoader(data, batch_size=batch, shuffle=True))
        list(DataLoader(Subset(data, [3, 4, 5, 6]), batch_size=batch))
        list(DataLoader(Squares(9), batch_size=batch))
    assert torch.core.cache_size() == before


def test_collation() -> None:
    batch = next(iter(DataLoader(Squares(5), batch_size=3)))
    assert (
        batch["x"].tolist() == [[0], [1], [2]]
        and batch["y"].tolist() == [0, 1, 4]
        and batch["name"] == ["0", "1", "2"]
    )
    assert batch["y"].dtype is torch.int64
    point = namedtuple("point", "a b")
    found = default_collate([point(1.5, np.ones(2)), point(2.5, np.zeros(2))])
    assert found.a.dtype is torch.float64 and found.b.tolist() == [[1, 1], [0, 0]]
    assert default_collate([(1, "a"), (2, "b")])[0].tolist() == [1, 2]
    with pytest.raises(TypeError):
        default_collate([object()])
    with pytest.raises(RuntimeError):
        default_collate([torch.ones(2), torch.ones(3)])


def test_other_ways_to_load() -> None:
    assert [b.tolist() for b in DataLoader(Counting(), batch_size=2)] == [[0, 1], [2, 3], [4]]
    assert list(DataLoader([1, 2, 3], batch_size=None)) == [1, 2, 3]
    assert [b.tolist() for b in DataLoader(range(6), batch_sampler=[[5, 0], [1]])] == [[5, 0], [1]]
    assert list(DataLoader([1, 2, 3], batch_size=2, collate_fn=lambda items: sum(items))) == [3, 3]


def test_samplers() -> None:
    assert list(BatchSampler(range(5), 2, False)) == [[0, 1], [2, 3], [4]]
    assert sorted(SubsetRandomSampler([4, 7, 9])) == [4, 7, 9]
    assert len(list(RandomSampler(range(5), replacement=True, num_samples=12))) == 12
    assert sorted(RandomSampler(range(3), num_samples=6)) == [0, 0, 1, 1, 2, 2]
    assert set(WeightedRandomSampler([0.0, 1.0, 0.0], 8)) == {1}


def test_splits_and_joins() -> None:
    parts = random_split(range(10), [0.7, 0.3], generator=torch.Generator().manual_seed(0))
    assert [len(p) for p in parts] == [7, 3] and sorted([*parts[0], *parts[1]]) == list(range(10))
    joined = Squares(2) + Squares(3)
    assert (
        isinstance(joined, ConcatDataset)
        and len(joined) == 5
        and joined[-1]["y"] == 4
        and joined[2]["y"] == 0
    )
    data = TensorDataset(torch.arange(6.0))
    assert rows_of(DataLoader(Subset(data, [5, 1]), batch_size=2)) == [[5, 1]]
