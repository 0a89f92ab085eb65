"""The CDI specification on disk: finds the driver's files and writes what the core decides."""
