"""The node's metrics in Prometheus' formats."""
