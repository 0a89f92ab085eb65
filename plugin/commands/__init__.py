"""The commands besides ``run``: each prints something and returns an exit status."""
