"""The command ``headwater``: lists, copies and imports datasets, and measures and checks the way to a core."""

from __future__ import annotations

import signal
import sys

from ._load import native


def main() -> None:
    # Ctrl-C ends it, as it ends the program of that name.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(native.command(["headwater", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
