"""A Kubernetes node whose pods are sandboxed host processes.

`core` decides (pure: pod and observed processes in, actions and status out), `host` does (processes, sandbox, volumes,
logs), `api` talks to the API server, `node` puts them together. The kubelet is the specification of a pod's status.
"""

__version__ = "0.1.0"
