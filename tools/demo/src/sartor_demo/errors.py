"""What goes wrong, in sentences for whoever started the demonstration."""


class DemoError(Exception):
    """The message says what was wrong and what to do."""
