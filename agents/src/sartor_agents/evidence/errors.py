"""What is wrong with a bundle as a whole. Single claims that do not hold are findings (`findings`), not errors."""


class EvidenceError(Exception):
    """The bundle cannot be written or read; the message is a sentence that names the part."""


class BundleUnreadableError(EvidenceError):
    """It is no bundle: cut off, of another form, too large, or with names that no bundle has."""
