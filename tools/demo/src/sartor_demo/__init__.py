"""The demonstration: a Kubernetes of its own, a node that is this machine, Sartor, and one `ServingSynthesis`."""
