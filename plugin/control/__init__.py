"""Commands to the running daemon over its control socket."""
