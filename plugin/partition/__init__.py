"""Applies MIG configurations: takes devices out of service, changes GPUs step by step, and keeps
what is wanted across restarts. Imported only where a configuration is wanted.
"""
