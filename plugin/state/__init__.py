"""The one writer of the node's state, what feeds it, and what it keeps on disk."""
