"""Each of kubelet's APIs."""
