"""Roles as pods of a cluster: `python -m sartor_agents.pods ROLE`, one thin shell around what `sartor run` does.

`contract` is what the operator mounts and sets, `remote` the run's repository with the pod's own identity, `records` how a
result gets there exactly once; each role has a module. See `__main__` for the roles and their exit codes.
"""
