//! Trees of extent pages: the chunk list of a long file.
