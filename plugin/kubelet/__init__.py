"""Kubelet's APIs."""

import os

# gRPC reads this at import, which happens in this package only. It silences gRPC's own lines, which
# would break the log's format; set the variable to see them.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
