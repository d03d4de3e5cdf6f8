"""Reads datasets from a Headwater core: by sample, in batches, verified, at the speed of the network.

>>> import headwater
>>> cameras = headwater.connect().dataset("cameras@latest")   # doctest: +SKIP
>>> for batch in cameras.batches(256, seed=7, epoch=0):        # doctest: +SKIP
...     images = batch.array("png")

``headwater.federated`` is for training programs on devices. ``headwater.torch`` has datasets for PyTorch and ``headwater.fsspec`` a filesystem; neither is needed to import this.
"""

from ._batch import Batch, Ragged, Sample
from ._client import Client, Stats, connect, log
from ._dataset import Batches, Dataset
from ._errors import Error, NotFoundError, SampleRangeError, UnreachableError, UnreadableError
from ._order import Order

__all__ = [
    "Batch",
    "Batches",
    "Client",
    "Dataset",
    "Error",
    "NotFoundError",
    "Order",
    "Ragged",
    "Sample",
    "SampleRangeError",
    "Stats",
    "UnreachableError",
    "UnreadableError",
    "connect",
    "log",
]
