"""What is on the node: GPUs, MIG devices, their profiles and what is measured of them."""
