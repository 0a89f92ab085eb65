"""Kubelet's device plugin API: one server per resource, registered and kept registered."""
