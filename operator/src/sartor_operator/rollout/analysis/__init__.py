"""Where verdicts come from: a task of the operator that reads the sources of every step that was asked for lately.

    access logs ─┐
    Prometheus  ─┼─► sight (which sources are current, one window) ─► judge ─► outcome (a reading) ─► Analyst.latest
    probe       ─┘

`agenda`, `sight`, `outcome` and `probe_records` are pure; `access_logs`, `prometheus`, `probe` and `fetch` read; `analyst`
is the task. Nothing is kept that could not be read again: after a restart of the operator the log is read from the file as
it lies there, Prometheus from the begin of the step, the probe from its first record.
"""

from sartor_operator.rollout.analysis.analyst import Analyst

__all__ = ["Analyst"]
