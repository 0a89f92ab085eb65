"""The simulated node: a driver, a kubelet and the rules that real ones keep."""
