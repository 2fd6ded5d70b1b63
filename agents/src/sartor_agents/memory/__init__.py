"""The outer loop's memory: the run's history in words, for planners with a fresh context and for people who look.

- `files`: `roadmap.md`, `issues/`, `rounds/NNN/round.md` and `autopsies/`, rendered from the records and committed with the
  record that changes them.
- `brief`: the same for one planner call, newest and most relevant first, within a token budget.
- `quoting`: text that others wrote is data: cleaned, delimited, and never able to end its own delimiter.
"""
