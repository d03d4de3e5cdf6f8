"""A dataset that was opened, and epochs of it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from ._batch import Batch, Sample
from ._errors import NotFoundError
from ._load import native
from ._order import Order

if TYPE_CHECKING:
    from ._client import Client


@dataclass(frozen=True)
class FileInfo:
    """A file, folder or link of a version."""

    path: str
    kind: str
    """``"file"``, ``"folder"`` or ``"symlink"``."""
    size: int
    """Bytes of a file."""
    mtime_ns: int
    """When it was last changed, in nanoseconds since the Unix epoch."""


class Dataset:
    """A version of a dataset, or a collection: what was resolved when it was opened."""

    def __init__(self, client: Client, opened: native.Dataset) -> None:
        self._client = client
        self._opened = opened
        self._kept: dict[tuple[object, object], list[tuple[int, int]]] = {}

    @property
    def client(self) -> Client:
        """The connection that it was opened on."""
        return self._client

    @property
    def label(self) -> str:
        """Its name with the number that was resolved, as ``cameras@7``."""
        return self._opened.label

    @property
    def number(self) -> int:
        """The number of the version."""
        return self._opened.number

    @property
    def id(self) -> bytes:
        """The id of the version: what the order of samples follows from."""
        return self._opened.id

    def __len__(self) -> int:
        return len(self._opened)

    def read(self, numbers: Iterable[int]) -> Batch:
        """Reads samples by their numbers, in this order."""
        return Batch(self._opened.read([int(number) for number in numbers]))

    @overload
    def __getitem__(self, key: int) -> Sample: ...
    @overload
    def __getitem__(self, key: slice | Iterable[int]) -> Batch: ...
    def __getitem__(self, key: int | slice | Iterable[int]) -> Sample | Batch:
        if isinstance(key, slice):
            return self.read(range(*key.indices(len(self))))
        if isinstance(key, Iterable):
            return self.read(self._number(number) for number in key)
        return self.read([self._number(key)])[0]

    def _number(self, key: int) -> int:
        number = int(key)
        if not -len(self) <= number < len(self):
            raise IndexError(f"there is no sample {number} in `{self.label}`: it has {len(self)}, counted from 0")
        return number + len(self) if number < 0 else number

    def __iter__(self) -> Iterator[Sample]:
        return (sample for batch in self.batches(64, shuffle=False, rank=0, world_size=1) for sample in batch)

    def batches(self, batch_size: int, *, state: dict[str, Any] | None = None, **order: Any) -> Batches:
        """One epoch, or what one rank reads of it, in batches; see `Order` for what can be said of its order.

        :param state: a `Batches.state_dict` of an earlier run, of any number of ranks: reading goes on where it was.
        """
        settings = Order(**order)
        if state is not None:
            settings = settings.resumed(state, self.label, self.id)
        return Batches(self, settings, batch_size)

    def epoch(self, order: Order, batch_size: int, worker: int = 0, workers: int = 1) -> native.Epoch:
        """What a rank, or a worker of it, reads of an epoch: `batches` and ``headwater.torch`` stand on it."""
        chosen = (order.patterns, order.terms)
        if any(chosen) and chosen not in self._kept:
            terms = [(label, list(values)) for label, values in order.terms]
            self._kept[chosen] = self._opened.select(list(order.patterns), terms)
        kept = self._kept[chosen] if any(chosen) else []
        return self._opened.epoch(order.arguments(batch_size, kept, worker, workers))

    def files(self, under: str = "") -> list[FileInfo]:
        """The files, folders and links at or below a path, in path order."""
        return [FileInfo(*row) for row in self._client._client.files(self.label, under.strip("/"))]

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Bytes of a file from ``offset`` on: ``length`` of them, or fewer where it ends before."""
        if offset < 0 or length < 0:
            raise ValueError("a range begins at 0 at least and has no negative length")
        read = self._opened.read_range(path.encode(), offset, length)
        ((_, start, came),) = read.sample(0)
        return memoryview(read.buffer)[start : start + came].tobytes()

    def open(self, path: str, block_size: int = 4 << 20) -> io.BufferedReader:
        """A file of the version, to read and seek in."""
        try:
            found = self.files(path)
        except NotFoundError:
            found = []
        size = next((file.size for file in found if file.path == path.strip("/") and file.kind == "file"), None)
        if size is None:
            raise FileNotFoundError(f"there is no file `{path}` in `{self.label}`")
        return io.BufferedReader(_File(self, path.strip("/"), size), block_size)

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self._client, self.label, self._kept)

    def __repr__(self) -> str:
        return f"Dataset({self.label!r}, {len(self)} samples)"


def _reopen(client: Client, label: str, kept: dict[tuple[object, object], list[tuple[int, int]]]) -> Dataset:
    dataset = client.dataset(label)
    dataset._kept.update(kept)
    return dataset


class Batches(Iterator[Batch]):
    """An epoch on its way: an iterator over batches, several of which are under way."""

    def __init__(self, dataset: Dataset, order: Order, batch_size: int) -> None:
        self._dataset = dataset
        self._order = order
        self._epoch = dataset.epoch(order, batch_size)
        self._received = 0

    def __len__(self) -> int:
        """Batches of this rank from where the epoch was begun."""
        return len(self._epoch)

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        batch = Batch(next(self._epoch))
        self._received += len(batch)
        return batch

    @property
    def position(self) -> int:
        """Where in the epoch any number of ranks goes on after what was received here."""
        return self._epoch.position_after(self._received)

    def state_dict(self) -> dict[str, Any]:
        """What the epoch is resumed from, by any number of ranks. Each rank must have received as many batches."""
        return self._order.state(self._dataset.label, self._dataset.id, self.position)


class _File(io.RawIOBase):
    def __init__(self, dataset: Dataset, path: str, size: int) -> None:
        self._dataset, self._path, self._size, self._at = dataset, path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if at < 0:
            raise ValueError(f"`{self._path}` has no byte {at}")
        self._at = at
        return at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        data = self._dataset.read_range(self._path, self._at, len(view)) if self._at < self._size else b""
        view[: len(data)] = data
        self._at += len(data)
        return len(data)
