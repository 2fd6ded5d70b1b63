"""The probe of a rollout: takes copies of users' requests, asks both arms, and compares the answers.

What a gateway cannot see is seen here: when the first token came, the gaps between tokens, and whether both arms say the
same. `sampling`, `greedy`, `reading`, `pairing` and `ring` are pure; `arms` speaks to the arms, `server` to the gateway and
the operator. What goes over the wire to the operator is `sartor_api.probe`; for what it costs and what it cannot tell see
docs/rollouts/probe.md.
"""
