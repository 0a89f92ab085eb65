"""Decides how a GPU, and a node, comes from its present MIG instances to those that are wanted."""
