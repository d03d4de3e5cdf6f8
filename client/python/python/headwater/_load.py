"""Finds the native half: the one with RDMA where its libraries are, else the one without."""

from __future__ import annotations

no_rdma_reason: str | None = None

try:
    from . import _native_rdma as native
except ImportError as _error:
    no_rdma_reason = f"the module with RDMA can't be loaded: {_error}"
    from . import _native as native  # type: ignore[no-redef]

__all__ = ["native", "no_rdma_reason"]
