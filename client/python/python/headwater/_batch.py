"""What was read: numpy arrays over the receive buffer, without a copy.

The buffer is used again when no array, tensor or batch over it lives any more; until then it is not touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NoReturn, overload

import numpy as np
import numpy.typing as npt

from ._load import native

Bytes = npt.NDArray[np.uint8]


def _shown(name: str) -> str:
    """A field's name as users say it: ``.png`` is ``png``."""
    return name[1:] if name.startswith(".") else name


def _viewed(raw: Bytes, dtype: npt.DTypeLike, shape: Sequence[int] | None, leading: tuple[int, ...]) -> npt.NDArray[Any]:
    """The last axis of ``raw``, whose items are bytes, as items of ``dtype`` in ``shape``."""
    wanted = np.dtype(dtype)
    if raw.shape[-1] % wanted.itemsize:
        raise ValueError(f"{raw.shape[-1]} bytes are not a whole number of {wanted} items")
    seen = raw if wanted == np.uint8 else raw.view(wanted)
    return seen if shape is None else seen.reshape(*leading, *shape)


class Ragged(Sequence[Bytes]):
    """A field whose length differs from sample to sample: one array of bytes, and where in it each sample's are."""

    def __init__(self, data: Bytes, starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], name: str) -> None:
        self.data = data
        """All bytes of the receive buffer."""
        self.starts = starts
        """Where in `data` each sample begins; -1 where a sample does not have the field."""
        self.lengths = lengths
        """Bytes of each sample."""
        self._name = name

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> Bytes: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Bytes]: ...
    def __getitem__(self, index: int | slice) -> Bytes | Sequence[Bytes]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        start, length = int(self.starts[index]), int(self.lengths[index])
        if start < 0:
            raise KeyError(f"sample {index} of this batch has no field `{self._name}`")
        return self.data[start : start + length]


class Sample(Mapping[str, Bytes]):
    """A sample: its fields by name, as arrays of bytes."""

    def __init__(self, number: int, fields: dict[str, Bytes]) -> None:
        self.number = number
        """Its number in the dataset."""
        self._fields = fields

    def __getitem__(self, name: str) -> Bytes:
        try:
            return self._fields[name]
        except KeyError:
            raise KeyError(f"sample {self.number} has no field `{name}`, but: {', '.join(self._fields)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def array(self, field: str | None = None, dtype: npt.DTypeLike = np.uint8, shape: Sequence[int] | None = None) -> npt.NDArray[Any]:
        """A field as items of ``dtype`` in ``shape``; the only field, if none is named."""
        return _viewed(self[_one(field, list(self._fields))], dtype, shape, ())

    def bytes(self, field: str | None = None) -> bytes:
        """A copy of a field's bytes; of the only field, if none is named."""
        return self[_one(field, list(self._fields))].tobytes()

    def __repr__(self) -> str:
        fields = ", ".join(f"{name!r}: {len(data)} bytes" for name, data in self._fields.items())
        return f"Sample({self.number}, {{{fields}}})"


def _one(field: str | None, known: list[str]) -> str:
    if field is not None:
        return field
    if len(known) == 1:
        return known[0]
    raise KeyError(f"there are the fields {', '.join(known) or 'none'}: say which")


class Batch:
    """Samples that were read at once, in the order in which they were asked for.

    ``batch["png"]`` is a field of all samples: an array (samples, bytes) where all are of one length, else a `Ragged`.
    ``batch[3]`` is a sample.
    """

    def __init__(self, read: native.Batch) -> None:
        self._read = read
        self._bytes: Bytes = np.frombuffer(memoryview(read.buffer), np.uint8)

    def __len__(self) -> int:
        return len(self._read)

    @cached_property
    def numbers(self) -> npt.NDArray[np.int64]:
        """The samples' numbers in the dataset."""
        return np.frombuffer(self._read.numbers, "<i8")

    @property
    def position(self) -> int:
        """Where in the epoch any number of ranks goes on once each has received this batch; 0 outside of an epoch."""
        return self._read.position

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of fields that any of its samples has."""
        return tuple(_shown(name) for name in self._read.names)

    @property
    def unreadable(self) -> list[int]:
        """Which of its samples are damaged at the core. Looking at them raises, and so does a field of all samples."""
        return self._read.unreadable

    def sample(self, index: int) -> Sample:
        """A sample of the batch."""
        at = index + len(self) if index < 0 else index
        files = self._read.sample(at)
        fields = {_shown(name): self._bytes[start : start + length] for name, start, length in files}
        return Sample(int(self.numbers[at]), fields)

    @overload
    def __getitem__(self, key: int) -> Sample: ...
    @overload
    def __getitem__(self, key: str) -> Bytes | Ragged: ...
    def __getitem__(self, key: int | str) -> Sample | Bytes | Ragged:
        return self.column(key) if isinstance(key, str) else self.sample(key)

    def __iter__(self) -> Iterator[Sample]:
        return (self.sample(index) for index in range(len(self)))

    def column(self, field: str) -> Bytes | Ragged:
        """A field of all samples: (samples, bytes) where all are of one length, else a `Ragged`."""
        for damaged in self._read.unreadable:
            self._read.sample(damaged)
        name = next((name for name in self._read.names if _shown(name) == field), None)
        if name is None:
            raise KeyError(f"no sample of this batch has a field `{field}`, but: {', '.join(self.fields)}")
        even = self._read.stacked(name)
        if even is not None:
            start, stride, length = even
            return np.ndarray((len(self), length), np.uint8, self._bytes, start, (stride, 1))
        starts, lengths = (np.frombuffer(packed, "<i8") for packed in self._read.places(name))
        return Ragged(self._bytes, starts, lengths, field)

    def array(self, field: str | None = None, dtype: npt.DTypeLike = np.uint8, shape: Sequence[int] | None = None) -> npt.NDArray[Any]:
        """A field of all samples as items of ``dtype``, each in ``shape``; the only field, if none is named.

        All samples' must be of one length. It is a view, unless they don't lie evenly in the buffer: then they are copied together.
        """
        name = _one(field, list(self.fields))
        found = self.column(name)
        if isinstance(found, Ragged):
            found = _together(found, name)
        return _viewed(found, dtype, shape, (len(self),))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a batch is a view of this process's memory: send arrays or tensors made from it instead")

    def __repr__(self) -> str:
        return f"Batch({len(self)} samples, fields: {', '.join(self.fields)})"


def _together(column: Ragged, name: str) -> Bytes:
    lengths = set(column.lengths.tolist())
    if len(lengths) != 1 or min(column.starts, default=0) < 0:
        raise ValueError(f"`{name}` is not of one length in all samples of this batch: use `batch[{name!r}]`")
    return np.stack(list(column))
