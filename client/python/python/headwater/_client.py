"""Connections to a core."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import Any, Union

from ._dataset import Dataset
from ._load import native, no_rdma_reason

PathLike = Union[str, "os.PathLike[str]"]


@dataclass(frozen=True)
class Stats:
    """What a connection has done in this process."""

    samples: int
    """Samples that were read."""
    bytes: int
    """Bytes of their files."""
    wait_seconds: float
    """How long this process has stood still for the core."""
    mismatches: int
    """Answers that were not what their hashes say, and were fetched again."""
    connections: int
    """How often the connection was made."""
    transport: str | None
    """What bytes travel on, ``"rdma"`` or ``"tcp"``; None while there is no connection."""
    transport_reason: str | None
    """Why it is not RDMA; None where it is."""


class Client:
    """A connection to one core. It is made anew when it breaks, and by each process that needs it.

    :param core: ``host:port``; else ``HEADWATER_CORE``, else the addresses in the token.
    :param token: a token of the role reader; else the one in ``token_file``, ``HEADWATER_TOKEN`` or the file that
        ``HEADWATER_TOKEN_FILE`` names.
    :param verify: whether what arrives is checked against its hashes.
    :param buffer_bytes: bytes of a receive buffer at the start; it grows where an answer needs more.
    :param reconnect_seconds: how long a core that has gone is waited for before a read fails (300).
    :param job: the id that all ranks and workers of a job share: what ``latest`` means is settled once for it. By default
        ``HEADWATER_JOB``, what the batch system or ``torchrun`` says, or one that was drawn by chance.
    """

    def __init__(
        self,
        core: str | None = None,
        *,
        token: str | None = None,
        token_file: PathLike | None = None,
        verify: bool = True,
        buffer_bytes: int | None = None,
        reconnect_seconds: float | None = None,
        job: str | None = None,
    ) -> None:
        self._arguments: dict[str, Any] = {
            "core": core,
            "token": token,
            "token_file": None if token_file is None else os.fspath(token_file),
            "verify": verify,
            "buffer_bytes": buffer_bytes,
            "reconnect_seconds": reconnect_seconds,
            "job": job,
        }
        self._client = native.Client(self._arguments)
        # Processes to which this is sent are of the same job.
        self._arguments["job"] = self.job

    @property
    def job(self) -> str:
        """The id of the job that this process is of."""
        return self._client.job

    def dataset(self, name: str) -> Dataset:
        """Opens ``name``, ``name@latest``, ``name@7`` or ``name@tag``, or a collection likewise.

        What ``latest`` means is settled now, whatever is published later.
        """
        return Dataset(self, self._client.dataset(name))

    def datasets(self) -> dict[str, int]:
        """The datasets that can be read, each with the number of its newest version."""
        return {name: number for name, number, _, _ in self._client.datasets()}

    def stats(self) -> Stats:
        """What was read, over what, and how long it was waited for."""
        found = Stats(**self._client.stats())
        if no_rdma_reason and found.transport != "rdma":
            return Stats(**{**found.__dict__, "transport_reason": no_rdma_reason})
        return found

    def close(self) -> None:
        """Ends the connection. Reading makes it anew."""
        self._client.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Client, **self._arguments), ()


connect = Client
"""Connects to a core: the connection's own name for it."""


def log(filter: str = "info") -> None:
    """Writes this process's log to standard error, as ``info`` or ``headwater_client=debug``."""
    native.log(filter)
