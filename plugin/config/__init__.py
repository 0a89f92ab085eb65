"""Settings from flag, environment variable and file."""
