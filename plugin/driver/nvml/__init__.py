"""NVIDIA's driver through NVML: the only package that imports pynvml."""

from plugin.driver.nvml.driver import NvmlDriver
from plugin.driver.nvml.library import find_library

__all__ = ["NvmlDriver", "find_library"]
