"""The native half with RDMA: the same as without."""

from ._native import Batch as Batch
from ._native import Buffer as Buffer
from ._native import Client as Client
from ._native import Dataset as Dataset
from ._native import Epoch as Epoch
from ._native import command as command
from ._native import log as log
