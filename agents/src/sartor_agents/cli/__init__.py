"""The command line: `sartor`."""
