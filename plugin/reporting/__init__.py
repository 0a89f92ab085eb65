"""Writes what is known about the node to the cluster: labels, Events, a condition, taints."""
