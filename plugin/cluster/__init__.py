"""The Kubernetes API: the own Node, this node's pods, Events and evictions.

Imported only if a feature needs the cluster.
"""
