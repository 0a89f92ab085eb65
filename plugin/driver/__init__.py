"""The NVML seam: what a driver answers, and the driver that asks NVIDIA's."""
