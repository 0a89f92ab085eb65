"""Kubelet's pod resources API: allocations of devices to containers."""
