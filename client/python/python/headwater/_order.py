"""Which samples a rank reads, and in which order."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

STATE_VERSION = 1


def ranks() -> tuple[int, int]:
    """This process's rank and the number of ranks: of torch.distributed where that runs, else of the environment, else 0 of 1."""
    torch = sys.modules.get("torch")
    distributed = getattr(torch, "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return _from_environment("RANK", 0), _from_environment("WORLD_SIZE", 1)


def _from_environment(name: str, otherwise: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return otherwise
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"the environment says {name}={text}, which is no number") from None


def as_text(value: object) -> str:
    """A label's value as the core compares it: text as it is, anything else as JSON spells it."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, (bool, int, float)):
        return json.dumps(value)
    raise TypeError(f"a label's value is text, a number, a truth value or None, not {value!r}")


@dataclass(frozen=True)
class Order:
    """The order of an epoch, and one rank's part of it.

    There is one order for all ranks, which follows from the dataset's version, the seed and the epoch. Ranks take turns in it, so what
    they read together is the same for any number of them, and an epoch can be resumed by any other number.
    """

    shuffle: bool | str = True
    """True or ``"full"``: any order is as likely as any other. ``"block"``: blocks of neighbours in a random order, each mixed within,
    which reads sequentially. False or ``"none"``: as the version has them."""
    block_size: int = 4096
    """Samples of a block."""
    seed: int = 0
    epoch: int = 0
    filter: str | tuple[str, ...] | None = None
    """Only samples that have a file which a pattern matches are read: ``"train/**"``, or several, of which one has to match. ``*`` stays
    within a folder, ``**`` does not."""
    labels: Mapping[str, object] | None = None
    """Only samples with these labels are read: ``{".cls": 3}`` for a field that is the label, ``{".json:sky.rain": True}`` for a place in one
    that is JSON, where of a list one member has to fit. A list of values stands for any of them; all labels have to fit, and the filter."""
    fraction: float = 1.0
    """Which share of the samples is read: the same ones in each epoch of a seed, spread evenly."""
    rank: int | None = None
    """By default that of torch.distributed, or of the environment (``RANK``, ``WORLD_SIZE``)."""
    world_size: int | None = None
    replication: int = 1
    """So many neighbouring ranks read the same samples, as the ranks between which one model is split do."""
    remainder: str = "drop"
    """What happens to samples at the end that don't go round: ``"drop"``, ``"repeat"`` from the beginning, or ``"uneven"`` ranks."""
    drop_last: bool = False
    """Whether a last batch that is not full is left out."""
    start: int = 0
    """Where in the epoch reading begins, counted over all ranks."""
    ahead: int = 4
    """Batches that are under way at a time."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns of the filter."""
        return () if self.filter is None else (self.filter,) if isinstance(self.filter, str) else tuple(self.filter)

    @property
    def terms(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """The labels, and what each may be, as text."""
        several = {label: value if isinstance(value, (list, tuple, set, frozenset)) else [value] for label, value in (self.labels or {}).items()}
        return tuple((label, tuple(sorted({as_text(value) for value in values}))) for label, values in sorted(several.items()))

    def arguments(self, batch_size: int, kept: list[tuple[int, int]], worker: int = 0, workers: int = 1) -> dict[str, Any]:
        """What the native half takes, with the samples that the filter keeps.

        It is for one of ``workers``, each of which reads every so many-th batch.
        """
        rank, world_size = (0, 1) if self.rank is not None and self.world_size is not None else ranks()
        rank = rank if self.rank is None else self.rank
        world_size = world_size if self.world_size is None else self.world_size
        shuffle = self.shuffle if isinstance(self.shuffle, str) else "full" if self.shuffle else "none"
        numbers = {
            "batch_size": batch_size,
            "block_size": self.block_size,
            "seed": self.seed,
            "epoch": self.epoch,
            "rank": rank,
            "world_size": world_size,
            "replication": self.replication,
            "start": self.start,
        }
        for name, number in numbers.items():
            if isinstance(number, bool) or not isinstance(number, int):
                raise TypeError(f"{name} has to be a whole number, not {number!r}")
            bits = 32 if name == "batch_size" else 64
            if not 0 <= number < 1 << bits:
                raise ValueError(f"{name} has to be from 0 up to 2**{bits} - 1, not {number}")
        return {
            **numbers,
            "shuffle": shuffle,
            "kept": kept,
            "fraction": float(self.fraction),
            "remainder": self.remainder,
            "drop_last": bool(self.drop_last),
            "worker": worker,
            "workers": workers,
            "ahead": max(1, int(self.ahead)),
        }

    def state(self, label: str, identity: bytes, position: int) -> dict[str, Any]:
        """What an epoch that has come to ``position`` is resumed from. The number of ranks is not in it."""
        return {
            "headwater": STATE_VERSION,
            "dataset": label,
            "id": identity.hex(),
            "seed": self.seed,
            "epoch": self.epoch,
            "shuffle": self.shuffle,
            "block_size": self.block_size,
            "filter": list(self.patterns),
            "labels": {label: list(values) for label, values in self.terms},
            "fraction": self.fraction,
            "position": position,
        }

    def resumed(self, state: dict[str, Any], label: str, identity: bytes) -> Order:
        """This order where ``state`` left off. An error if that was another dataset or another order."""
        if not isinstance(state, dict) or state.get("headwater") != STATE_VERSION:
            raise ValueError("this is no state of headwater, or one of another release")
        if state["id"] != identity.hex():
            raise ValueError(
                f"the state is of `{state['dataset']}`, and this is `{label}`: open `{state['dataset']}` to go on where it was"
            )
        mixed = ("seed", "shuffle", "block_size", "fraction")
        other = [name for name in mixed if state[name] != getattr(self, name)]
        if tuple(state["filter"]) != self.patterns:
            other.append("filter")
        # A state of an earlier release has none.
        if state.get("labels", {}) != {label: list(values) for label, values in self.terms}:
            other.append("labels")
        if other:
            differs = ", ".join(f"{name}={state.get(name)!r} (here {getattr(self, name)!r})" for name in other)
            raise ValueError(f"the state is of another order: {differs}")
        return replace(self, epoch=state["epoch"], start=state["position"])
