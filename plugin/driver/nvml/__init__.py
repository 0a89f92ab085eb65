"""NVIDIA's driver through NVML: the only package that imports pynvml."""

from plugin.driver.nvml.driver import NvmlDriver
from plugin.driver.nvml.loading import Loader

__all__ = ["Loader", "NvmlDriver"]
