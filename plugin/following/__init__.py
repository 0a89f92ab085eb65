"""Follows the configuration while the daemon runs: its files, a signal, the node's label."""
