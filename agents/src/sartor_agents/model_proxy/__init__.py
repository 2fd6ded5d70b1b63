"""The model proxy: the only way from agents to a model, and the only place where a provider's key is.

| module | what |
|---|---|
| `config` | what it is given: endpoints with their keys, prices, limits |
| `sartor_api.search.grants` | tokens that say which run, role and step a caller is, and what that may spend |
| `policy` | which requests are let through, and what they can cost at most |
| `ledger` | what was reserved and paid, and the recorded answers; survives being killed |
| `endpoints`, `breaker` | the providers: which one is asked, and which one is left alone for a while |
| `flight` | one call on its way: forwarded, counted, recorded |
| `answers` | usage and content of what a provider sends |
| `service` | the HTTP around them; `python -m sartor_agents.model_proxy CONFIG` |

What leaves the machine or cluster goes through here: the agents' prompts, with the source, plans and tool output in them, to
the endpoints of the configuration and nowhere else.
"""
