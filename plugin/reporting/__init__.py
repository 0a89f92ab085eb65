"""What is known about the node stands in the cluster (labels, Events, a condition, taints), and
labels of the Node say what is wanted.
"""
