"""Roles and their backends, the run workspace, measurement, scenarios and the command line."""
