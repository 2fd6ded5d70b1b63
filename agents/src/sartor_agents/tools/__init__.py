"""What agents may do, as tools of a conversation (`backends.conversation.tool`).

| role | tools |
|---|---|
| implementer | `files` (read, list, write, edit, delete), `commands` (search, patch, run), `candidate`, `smoke`, and below |
| planner | `planner` (history, measurements, issues, roofline), `files` (the incumbent's source), and below |
| both | `profile`, `skills` |
| judge's review | `files` (read-only), `review` (diff, checklist; what of an opinion counts) |

`roles` puts them together. Whatever runs agent-written code runs in the sandbox (`run.sandbox`); whatever writes, writes
below `stack/`.
"""
