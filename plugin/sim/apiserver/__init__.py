"""A stand-in for the Kubernetes API server: nodes, pods, evictions and Events over real HTTP, as
strict as the real one where a client may notice.
"""
