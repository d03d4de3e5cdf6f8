"""Datasets for PyTorch that resume exactly, at any number of ranks and workers.

>>> from headwater.torch import DataLoader, IterableDataset
>>> train = IterableDataset(cameras, batch_size=256, seed=7)        # doctest: +SKIP
>>> loader = DataLoader(train, num_workers=2)                       # doctest: +SKIP
>>> for batch in loader:                                            # doctest: +SKIP
...     ...
...     torch.save({"data": loader.state_dict(), "model": model.state_dict()}, "checkpoint.pt")

What a state counts is what the training loop has received, not what workers have read ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.utils.data

from ._batch import Batch, Ragged, Sample
from ._dataset import Dataset
from ._load import native
from ._order import Order

__all__ = ["BatchSampler", "DataLoader", "IterableDataset", "MapDataset", "to_tensors"]


def to_tensors(read: Batch | Sample) -> dict[str, Any]:
    """Tensors over the receive buffer, without a copy: of each field (samples, bytes), or a list of tensors where lengths differ."""
    if isinstance(read, Sample):
        return {name: torch.from_numpy(data) for name, data in read.items()}
    columns = {name: read.column(name) for name in read.fields}
    return {
        name: [torch.from_numpy(one) for one in column] if isinstance(column, Ragged) else torch.from_numpy(column)
        for name, column in columns.items()
    }


class _Epochs:
    """Where a rank is: in which epoch, where that was begun, and how many batches the training loop has received since.

    Epoch and start lie in shared memory, so that workers that live on from one epoch to the next see them change; and whether workers read
    for a loader that does not count what the loop receives.
    """

    def __init__(self, dataset: Dataset, batch_size: int, order: dict[str, Any]) -> None:
        if order.get("rank") is None or order.get("world_size") is None:
            # Settled here: a worker knows nothing of torch.distributed.
            found = Order(**order).arguments(batch_size, [])
            order = {**order, "rank": found["rank"], "world_size": found["world_size"]}
        self.dataset = dataset
        self.batch_size = batch_size
        self._order = Order(**order)
        self._at = torch.tensor([self._order.epoch, self._order.start, 0], dtype=torch.int64).share_memory_()
        self._received = 0
        self.plan()

    def order(self) -> Order:
        epoch, start, _ = self._at.tolist()
        return replace(self._order, epoch=epoch, start=start)

    def plan(self, worker: int = 0, workers: int = 1) -> native.Epoch:
        return self.dataset.epoch(self.order(), self.batch_size, worker, workers)

    def set_epoch(self, epoch: int) -> None:
        """Goes to the beginning of an epoch."""
        self._go_to(epoch, 0)

    def _go_to(self, epoch: int, start: int) -> None:
        self._at[0], self._at[1] = epoch, start
        self.begin()

    def begin(self) -> None:
        """What was received of an epoch that was broken off is read again from where it was begun."""
        self._received = 0
        self._at[2] = 0

    def note_workers(self) -> None:
        """In a worker: nobody counts what the loop receives of this."""
        self._at[2] = 1

    def receive(self, samples: int) -> None:
        self._received += samples

    def end(self) -> None:
        self.set_epoch(int(self._at[0]) + 1)

    def state_dict(self) -> dict[str, Any]:
        """What a later run goes on from, with any number of ranks and workers. Each rank must have received as many batches."""
        if self._at[2]:
            raise RuntimeError("only `headwater.torch.DataLoader` knows what was received from worker processes: use it, or no workers")
        position = self.plan().position_after(self._received)
        return self.order().state(self.dataset.label, self.dataset.id, position)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where a run was that gave this state."""
        resumed = self.order().resumed(state, self.dataset.label, self.dataset.id)
        self._go_to(resumed.epoch, resumed.start)


class _Resumable:
    """What goes through epochs, and can be resumed."""

    epochs: _Epochs

    def set_epoch(self, epoch: int) -> None:
        """Goes to the beginning of an epoch."""
        self.epochs.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """What a later run goes on from, with any number of ranks and workers. Each rank must have received as many batches.

        Where there are worker processes, only `DataLoader` knows it.
        """
        return self.epochs.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where a run was that gave this state."""
        self.epochs.load_state_dict(state)


class IterableDataset(_Resumable, torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """Batches of an epoch, as one rank reads it. Each iteration to the end is one epoch, and the next one another.

    With worker processes, each reads every so many-th batch, so that the loop gets them in the same order as without. Pass
    ``batch_size=None`` to a stock ``DataLoader``: the batches are ready.

    :param transform: makes of a `Batch` what the loop gets, in the worker; by default `to_tensors`.
    :param samples: yields sample after sample instead, each as ``transform`` makes it of a `Sample`; give a stock ``DataLoader`` the same
        ``batch_size``.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        transform: Callable[[Any], Any] = to_tensors,
        samples: bool = False,
        **order: Any,
    ) -> None:
        super().__init__()
        self.epochs = _Epochs(dataset, batch_size, order)
        self._transform = transform
        self._samples = samples
        self._counted_elsewhere = False

    def __len__(self) -> int:
        plan = self.epochs.plan()
        return plan.steps if self._samples else len(plan)

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        if worker is None and not self._counted_elsewhere:
            return self._counted()
        if worker is None:
            return self._read(0, 1, lambda samples: None)
        if not self._counted_elsewhere:
            self.epochs.note_workers()
        return self._read(worker.id, worker.num_workers, lambda samples: None)

    def _read(self, worker: int, workers: int, receive: Callable[[int], None]) -> Iterator[Any]:
        for native_batch in self.epochs.plan(worker, workers):
            batch = Batch(native_batch)
            if self._samples:
                for sample in batch:
                    receive(1)
                    yield self._transform(sample)
            else:
                receive(len(batch))
                yield self._transform(batch)

    def _counted(self) -> Iterator[Any]:
        self.epochs.begin()
        yield from self._read(0, 1, self.epochs.receive)
        self.epochs.end()


class MapDataset(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Samples by number: one, or several at once where it is asked for a list, which costs one round trip.

    With `BatchSampler` it resumes exactly: ``DataLoader(MapDataset(cameras), sampler=BatchSampler(cameras, 256))``.
    """

    def __init__(self, dataset: Dataset, *, transform: Callable[[Any], Any] = to_tensors) -> None:
        self.dataset = dataset
        self._transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Any) -> Any:
        return self._transform(self.dataset[key])

    def __getitems__(self, numbers: list[int]) -> list[Any]:
        return [self._transform(sample) for sample in self.dataset[numbers]]


class BatchSampler(_Resumable, torch.utils.data.Sampler):  # type: ignore[type-arg]
    """The numbers of the samples of batch after batch, as one rank reads an epoch."""

    def __init__(self, dataset: Dataset, batch_size: int, **order: Any) -> None:
        self.epochs = _Epochs(dataset, batch_size, order)
        self._counted_elsewhere = False

    def __len__(self) -> int:
        return len(self.epochs.plan())

    def __iter__(self) -> Iterator[list[int]]:
        counted = not self._counted_elsewhere
        plan = self.epochs.plan()
        if counted:
            self.epochs.begin()
        for batch in range(len(plan)):
            numbers = plan.numbers(batch)
            if counted:
                self.epochs.receive(len(numbers))
            yield numbers
        if counted:
            self.epochs.end()


class DataLoader(_Resumable, torch.utils.data.DataLoader):  # type: ignore[type-arg]
    """PyTorch's ``DataLoader``, which counts what the training loop has received from its workers.

    It takes an `IterableDataset` that yields batches, or a `MapDataset` with ``sampler=BatchSampler(...)``, and everything else that the
    stock one takes except ``batch_size``, ``shuffle`` and ``drop_last``, which the dataset or the sampler says.
    """

    def __init__(self, dataset: IterableDataset | MapDataset, *, sampler: BatchSampler | None = None, **rest: Any) -> None:
        counted = dataset if isinstance(dataset, IterableDataset) else sampler
        if counted is None or isinstance(dataset, IterableDataset) and dataset._samples:
            raise TypeError("give an IterableDataset of batches, or a MapDataset with `sampler=headwater.torch.BatchSampler(...)`")
        for said in ("batch_size", "shuffle", "drop_last", "batch_sampler"):
            if rest.pop(said, None) is not None:
                raise TypeError(f"`{said}` is said where the order is: to the IterableDataset or the BatchSampler")
        counted._counted_elsewhere = True
        self.epochs = counted.epochs
        super().__init__(dataset, batch_size=None, sampler=sampler, **rest)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.epochs.begin()
        steps, size = self.epochs.plan().steps, self.epochs.batch_size
        received = 0
        for item in super().__iter__():
            samples = min(size, steps - received)
            received += samples
            self.epochs.receive(samples)
            yield item
        self.epochs.end()
