"""The simulated libnvidia-ml: what pynvml calls, over the simulated machine."""
