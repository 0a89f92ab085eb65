"""Node labels for Node Feature Discovery: a file in its folder."""
