"""The simulated node: hardware, NVML library and kubelet with the rules of the real ones."""
