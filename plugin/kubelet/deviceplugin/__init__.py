"""Kubelet's device plugin API: one registered server per resource."""
