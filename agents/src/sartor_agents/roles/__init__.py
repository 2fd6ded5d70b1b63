"""One module per role process: `python -m sartor_agents.roles.ROLE REQUEST.json RESPONSE.json`.

Exit code 0 and a valid response is a result; anything else is an infrastructure failure of the step.
"""
