"""What is wrong with a device, since when, and what ends it."""
