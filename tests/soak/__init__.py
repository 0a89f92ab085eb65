"""Minutes of churn on one daemon: nothing may grow, and the right state stands at the end."""
