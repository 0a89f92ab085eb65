"""Node labels: what GPU Feature Discovery would say of the node."""
