"""Exceptions. Each error of Headwater has a code with a page in the documentation."""

from __future__ import annotations


class Error(Exception):
    """An error with a code, as ``HW-7003``, a sentence, and a hint what to do."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(code, message, hint)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        hint = f"\nhint: {self.hint}" if self.hint else ""
        return f"[{self.code}] {self.message}{hint}"


class NotFoundError(Error, LookupError):
    """There is no such dataset, version or file; or this token may not read it, which looks the same."""


class SampleRangeError(Error, IndexError):
    """A sample's number is past the last one."""


class UnreadableError(Error):
    """A sample is damaged at the core. Other samples can be read."""


class UnreachableError(Error, ConnectionError):
    """The core can't be reached, or has gone for longer than is waited for."""


_KINDS = {
    "HW-2002": NotFoundError,
    "HW-2010": NotFoundError,
    "HW-3006": UnreachableError,
    "HW-3007": UnreachableError,
    "HW-7001": SampleRangeError,
    "HW-7003": UnreadableError,
}


def of(code: str, message: str, hint: str) -> Error:
    """The exception for a code."""
    return _KINDS.get(code, Error)(code, message, hint)
