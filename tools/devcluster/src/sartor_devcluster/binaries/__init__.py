"""Where the binaries come from: what is there already, what can be downloaded, what can be built."""

from sartor_devcluster.binaries.addons import Addons, find_addons
from sartor_devcluster.binaries.find import find_binaries
from sartor_devcluster.binaries.offer import COMPONENTS, Binaries, Source

__all__ = ["COMPONENTS", "Addons", "Binaries", "Source", "find_addons", "find_binaries"]
