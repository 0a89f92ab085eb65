"""The simulated libnvidia-ml, over the simulated machine."""
