"""Many nodes against one API server, with a clock that jumps: ``make scale``."""
