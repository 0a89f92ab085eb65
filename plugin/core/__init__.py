"""Values and decisions: pure functions over frozen values; no I/O, no clock, no threads, no event
loop.
"""
