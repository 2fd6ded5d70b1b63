"""What can go wrong, named by what the user must do next. Every message says what, where and the next step."""


class DevclusterError(Exception):
    """Base of everything this package raises on purpose."""


class BinariesError(DevclusterError):
    """No usable set of Kubernetes binaries, and none could be made."""


class IsolationError(DevclusterError):
    """This machine does not let us make the namespaces; the message names the setting."""


class StartError(DevclusterError):
    """The cluster did not become ready."""


class NotRunningError(DevclusterError):
    """The cluster that was asked for is not running."""


class StateError(DevclusterError):
    """A file in the cluster's folder is not what this version wrote."""
