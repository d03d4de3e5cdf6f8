"""For training programs on a device: the task that its agent gives, and what goes back.

>>> from headwater import federated
>>> task = federated.task()                                            # doctest: +SKIP
>>> weights = task.weights()                                           # doctest: +SKIP
>>> task.submit(weights, samples=1200, metrics={"loss": 0.31})         # doctest: +SKIP

Needs no core and no connection: the agent fetches the model and sends the update (``docs/federated/devices.md``). Tensors are numpy
arrays; tensors of torch are taken too.
"""

import json
import os
import pathlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Dataset", "Task", "load", "save", "task"]

_VARIABLE = "HEADWATER_TASK"
_TYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "F16": "<f2",
    "U32": "<u4",
    "I32": "<i4",
    "F32": "<f4",
    "U64": "<u8",
    "I64": "<i8",
    "F64": "<f8",
}
_NAMES = {np.dtype(code): name for name, code in _TYPES.items()}


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file; those of BF16, which numpy lacks, as float32."""
    data = np.fromfile(path, dtype=np.uint8)
    if data.nbytes < 8:
        raise ValueError(f"{path} is no safetensors file: it has {data.nbytes} bytes")
    length = int(data[:8].view("<u8")[0])
    if length > data.nbytes - 8:
        raise ValueError(f"{path} is no safetensors file: it has {data.nbytes} bytes, and its header would have {length}")
    header = json.loads(data[8 : 8 + length].tobytes())
    body, tensors = data[8 + length :], {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        raw = body[slice(*entry["data_offsets"])]
        if entry["dtype"] == "BF16":
            values = (raw.copy().view("<u2").astype("<u4") << 16).view("<f4")
        elif entry["dtype"] in _TYPES:
            values = raw.copy().view(_TYPES[entry["dtype"]])
        else:
            raise ValueError(f"{path}: tensor `{name}` has the type {entry['dtype']}, which numpy does not have")
        tensors[name] = values.reshape(entry["shape"])
    return tensors


def save(path: str | os.PathLike[str], tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Writes tensors as a safetensors file; it is there whole, or not at all."""
    arrays, header, offset = {name: _array(name, tensors[name]) for name in sorted(tensors)}, {}, 0
    if metadata:
        header["__metadata__"] = dict(metadata)
    for name, array in arrays.items():
        place = [offset, offset + array.nbytes]
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": place}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = pathlib.Path(f"{os.fspath(path)}.partial")
    with open(partial, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in arrays.values():
            file.write(array.tobytes())
    partial.replace(path)


def _array(name: str, value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float()
        value = value.numpy()
    array = np.asarray(value)
    array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)
    if array.dtype not in _NAMES:
        raise TypeError(f"tensor `{name}` has the type {array.dtype}, which a safetensors file can't hold")
    return array


@dataclass(frozen=True)
class Dataset:
    """A dataset of this device."""

    name: str
    folder: pathlib.Path
    samples: int


@dataclass(frozen=True)
class Task:
    """What the agent asks for."""

    folder: pathlib.Path
    run: str
    round: int
    kind: str
    model: pathlib.Path
    config: dict[str, Any]
    datasets: tuple[Dataset, ...]
    state: pathlib.Path
    seconds: int | None

    @property
    def is_evaluation(self) -> bool:
        """Whether only metrics are wanted."""
        return self.kind == "evaluate"

    def weights(self) -> dict[str, np.ndarray]:
        """The model's tensors."""
        return load(self.model)

    def progress(self, step: int, steps: int = 0, **numbers: float) -> None:
        """Says how far the program is; a device that makes progress is waited for."""
        print(json.dumps({"step": step, "steps": steps, **numbers}), flush=True)

    def submit(
        self,
        weights: Mapping[str, Any] | None = None,
        *,
        samples: int | None = None,
        metrics: Mapping[str, float] | None = None,
        delta: bool = False,
    ) -> None:
        """Leaves the result: the trained tensors (or with ``delta`` how they changed), unless only metrics are wanted."""
        if self.is_evaluation != (weights is None):
            wanted = "metrics alone" if self.is_evaluation else "the trained tensors"
            raise ValueError(f"the task is to {self.kind}, and wants {wanted}")
        numbers = {name: float(value) for name, value in (metrics or {}).items()}
        if samples is not None:
            numbers["samples"] = int(samples)
        if weights is not None:
            save(self.folder / "update.safetensors", weights, {"headwater.update": "delta" if delta else "weights"})
        (self.folder / "metrics.json").write_text(json.dumps(numbers))


def task(folder: str | os.PathLike[str] | None = None) -> Task:
    """The task in ``folder``, by default the one that the agent names in ``HEADWATER_TASK``."""
    place = folder if folder is not None else os.environ.get(_VARIABLE)
    if place is None:
        raise RuntimeError(f"{_VARIABLE} is not set: this is to be run by `edge-agent` ([training] command)")
    path = pathlib.Path(place)
    told = json.loads((path / "task.json").read_text())
    datasets = tuple(Dataset(each["name"], pathlib.Path(each["folder"]), each["samples"]) for each in told["datasets"])
    return Task(
        folder=path,
        run=told["run"],
        round=told["round"],
        kind=told["kind"],
        model=pathlib.Path(told["model"]),
        config=told["config"],
        datasets=datasets,
        state=pathlib.Path(told["state"]),
        seconds=told["seconds"],
    )
