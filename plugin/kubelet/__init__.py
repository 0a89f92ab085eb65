"""Each of kubelet's APIs."""

import os

# gRPC reads this when it is imported, which nobody does before this room is: its own lines of text
# do not belong among the log's. Who wants them sets the variable.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
