"""mig-device-plugin: a Kubernetes device plugin for NVIDIA MIG."""

__version__ = "0.1.0"
