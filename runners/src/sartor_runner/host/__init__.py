"""The machine's side: sandboxed processes, volumes, logs, memory, probes."""
