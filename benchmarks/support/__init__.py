"""What the benches share: rows and files, and the servers that are compared."""
