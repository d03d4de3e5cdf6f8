//! A core that asks for everything gets nothing of a local dataset: not a name, not a hash, not a byte.
