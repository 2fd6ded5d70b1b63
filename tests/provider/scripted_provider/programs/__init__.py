"""The characters that the provider plays, by name for the command line (`python tests/provider/serve.py NAME`)."""
