"""The stand-in kubelet."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # as in plugin.kubelet
