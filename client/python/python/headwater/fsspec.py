"""Versions as a filesystem for fsspec: pandas, pyarrow and others open ``headwater://dataset@version/path``.

>>> import pandas
>>> pandas.read_csv("headwater://sensors@latest/2026/november.csv")    # doctest: +SKIP

The core and the token come from the environment, or from storage options (``core``, ``token``, ``token_file``). What ``latest`` means is
settled when a filesystem first meets it.
"""

from __future__ import annotations

from typing import Any

import fsspec
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from ._client import Client
from ._dataset import Dataset
from ._errors import NotFoundError

__all__ = ["HeadwaterFileSystem"]


class HeadwaterFileSystem(AbstractFileSystem):
    """Datasets as folders: ``dataset@version``, and below each its files. Read-only."""

    protocol = "headwater"
    root_marker = ""

    def __init__(
        self,
        core: str | None = None,
        token: str | None = None,
        token_file: str | None = None,
        **storage_options: Any,
    ) -> None:
        super().__init__(core=core, token=token, token_file=token_file, **storage_options)
        self._client = Client(core, token=token, token_file=token_file)
        self._datasets: dict[str, Dataset] = {}

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        return str(path).removeprefix("headwater://").strip("/")

    def _place(self, path: str) -> tuple[Dataset, str, str]:
        """The version, how the path calls it, and the path in it."""
        name, at, rest = self._strip_protocol(path).partition("@")
        version, _, inside = rest.partition("/")
        if not at or not version:
            raise FileNotFoundError(f"`{path}` does not say which version: say headwater://NAME@VERSION/PATH")
        called = f"{name}@{version}"
        try:
            if called not in self._datasets:
                self._datasets[called] = self._client.dataset(called)
        except NotFoundError as error:
            raise FileNotFoundError(str(error)) from error
        return self._datasets[called], called, inside

    def _entries(self, path: str) -> tuple[str, str, list[dict[str, Any]]]:
        """All that is at or below a path."""
        dataset, called, inside = self._place(path)
        try:
            rows = dataset.files(inside)
        except NotFoundError as error:
            raise FileNotFoundError(str(error)) from error
        kinds = {"file": "file", "folder": "directory", "symlink": "link"}
        entries = [{"name": f"{called}/{row.path}", "size": row.size, "type": kinds[row.kind], "mtime": row.mtime_ns / 1e9} for row in rows]
        if inside and not entries:
            raise FileNotFoundError(f"there is no `{inside}` in `{dataset.label}`")
        return called, inside, entries

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """What is at a path."""
        if not self._strip_protocol(path):
            return {"name": "", "size": 0, "type": "directory"}
        called, inside, entries = self._entries(path)
        name = f"{called}/{inside}" if inside else called
        found = next((entry for entry in entries if entry["name"] == name), None)
        return found or {"name": name, "size": 0, "type": "directory"}

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """What lies directly below a path; the newest version of each dataset, where it is empty."""
        if not self._strip_protocol(path):
            found = [{"name": f"{name}@{number}", "size": 0, "type": "directory"} for name, number in self._client.datasets().items()]
        else:
            found = self._children(path)
        return found if detail else [entry["name"] for entry in found]

    def _children(self, path: str) -> list[dict[str, Any]]:
        called, inside, entries = self._entries(path)
        base = f"{called}/{inside}" if inside else called
        children: dict[str, dict[str, Any]] = {}
        for entry in entries:
            if entry["name"] == base:
                if entry["type"] != "directory":
                    return [entry]
                continue
            child, below, _ = entry["name"][len(base) + 1 :].partition("/")
            name = f"{base}/{child}"
            children[name] = {"name": name, "size": 0, "type": "directory"} if below else entry
        return [children[name] for name in sorted(children)]

    def find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, detail: bool = False, **kwargs: Any) -> Any:
        """All files below a path, in one question."""
        if maxdepth is not None or withdirs or not self._strip_protocol(path):
            return super().find(path, maxdepth=maxdepth, withdirs=withdirs, detail=detail, **kwargs)
        files = {entry["name"]: entry for entry in self._entries(path)[2] if entry["type"] == "file"}
        return files if detail else sorted(files)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """The bytes of a file, or a range of them."""
        size = self._size(path)
        first, last, _ = slice(start, end).indices(size)
        dataset, _, inside = self._place(path)
        return dataset.read_range(inside, first, max(0, last - first))

    def _size(self, path: str) -> int:
        found = self.info(path)
        if found["type"] == "directory":
            raise IsADirectoryError(found["name"])
        return int(found["size"])

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> _File:
        if mode != "rb":
            raise OSError("versions are read-only: publish a new one with `edge-agent publish` or `headwater import`")
        size = self._size(path)
        return _File(self, path, mode, block_size or "default", cache_options=cache_options, size=size, **kwargs)


class _File(AbstractBufferedFile):
    def _fetch_range(self, start: int, end: int) -> bytes:
        dataset, _, inside = self.fs._place(self.path)
        found: bytes = dataset.read_range(inside, start, end - start)
        return found


fsspec.register_implementation("headwater", HeadwaterFileSystem, clobber=True)
