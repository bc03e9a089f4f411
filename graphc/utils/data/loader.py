"""The DataLoader: batches of a dataset in a sampler's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from graphc.core import Generator
from graphc.utils.data.collate import default_collate, rows
from graphc.utils.data.dataset import IterableDataset, Subset, TensorDataset
from graphc.utils.data.sampler import BatchSampler, RandomSampler, SequentialSampler

__all__ = ["DataLoader"]


class DataLoader:
    """Iterates over batches. Loading runs in the calling process; `num_workers` above 0 is accepted.

    With `shuffle`, the order is drawn anew in every epoch from `generator` or the default one.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Any = None,
        batch_sampler: Any = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], None] | None = None,
        multiprocessing_context: Any = None,
        generator: Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        if num_workers < 0:
            raise ValueError(
                "num_workers option should be non-negative; use num_workers=0 to disable multiprocessing."
            )
        if timeout < 0:
            raise ValueError("timeout option should be non-negative")
        if sampler is not None and shuffle:
            raise ValueError("sampler option is mutually exclusive with shuffle")
        stream = isinstance(dataset, IterableDataset)
        if stream and (shuffle or sampler is not None or batch_sampler is not None):
            raise ValueError(
                "DataLoader with IterableDataset: expected unspecified shuffle, sampler and batch_sampler"
            )
        if batch_sampler is not None:
            if batch_size != 1 or shuffle or sampler is not None or drop_last:
                raise ValueError(
                    "batch_sampler option is mutually exclusive with batch_size, shuffle, sampler, and drop_last"
                )
            batch_size, drop_last = None, False
        elif batch_size is None and drop_last:
            raise ValueError(
                "batch_size=None option disables auto-batching and is mutually exclusive with drop_last"
            )
        if sampler is None and not stream:
            sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
        if batch_size is not None and batch_sampler is None and not stream:
            batch_sampler = BatchSampler(sampler, batch_size, drop_last)
        elif stream and batch_size is not None:
            BatchSampler((), batch_size, drop_last)
        self.dataset = dataset
        self.batch_size = batch_size
        self.drop_last = drop_last
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.generator = generator
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.timeout = timeout
        self._batches = batch_size is not None or batch_sampler is not None
        self._default = collate_fn is None and self._batches
        self.collate_fn: Callable[[Any], Any] = collate_fn or (
            default_collate if self._batches else _converted
        )

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.dataset, IterableDataset):
            return self._stream()
        if not self._batches:
            return (self.collate_fn(self.dataset[i]) for i in self.sampler)
        return map(self._fetch, self.batch_sampler)

    def _fetch(self, indices: list[int]) -> Any:
        if self._default:
            found = _tensor_rows(self.dataset, indices)
            if found is not None:
                return found
        if hasattr(self.dataset, "__getitems__"):
            return self.collate_fn(self.dataset.__getitems__(indices))
        return self.collate_fn([self.dataset[i] for i in indices])

    def _stream(self) -> Iterator[Any]:
        if self.batch_size is None:
            yield from map(self.collate_fn, self.dataset)
            return
        batch: list[Any] = []
        for sample in self.dataset:
            batch.append(sample)
            if len(batch) == self.batch_size:
                yield self.collate_fn(batch)
                batch = []
        if batch and not self.drop_last:
            yield self.collate_fn(batch)

    def __len__(self) -> int:
        if isinstance(self.dataset, IterableDataset):
            n = len(self.dataset)  # type: ignore[arg-type]
            if self.batch_size is None:
                return n
            return n // self.batch_size if self.drop_last else -(-n // self.batch_size)
        return len(self.batch_sampler if self._batches else self.sampler)


def _tensor_rows(dataset: Any, indices: list[int]) -> list[Any] | None:
    """The batch of a TensorDataset (or a Subset of one) by one take a tensor; None for other datasets."""
    while type(dataset) is Subset:
        indices = [dataset.indices[i] for i in indices]
        dataset = dataset.dataset
    if type(dataset) is not TensorDataset or any(t.requires_grad for t in dataset.tensors):
        return None
    return [rows(t, indices) for t in dataset.tensors]


def _converted(sample: Any) -> Any:
    """A sample as it is, with arrays as tensors."""
    if isinstance(sample, np.ndarray):
        return default_collate([sample])[0]
    if isinstance(sample, dict):
        return {k: _converted(v) for k, v in sample.items()}
    if isinstance(sample, (list, tuple)):
        return (
            type(sample)(_converted(v) for v in sample)
            if not hasattr(sample, "_fields")
            else type(sample)(*map(_converted, sample))
        )
    return sample
