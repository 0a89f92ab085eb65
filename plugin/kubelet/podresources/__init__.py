"""Kubelet's pod resources API: which container holds which device."""
