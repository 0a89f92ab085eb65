"""What an administrator types, besides ``run``: each command shows something and returns an exit
status.
"""
