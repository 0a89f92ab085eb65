"""What the node offers to kubelet, and what it leaves out and why."""
