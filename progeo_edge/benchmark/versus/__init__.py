"""The same work through what a user would pick instead, in one interleaved run."""
