"""The CDI specification: which devices it has, under which names, and what a container gets."""
