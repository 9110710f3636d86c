"""An object store that fails as real ones do: a proxy on this machine, in front of a server that does not.

    with FaultProxy(("127.0.0.1", port), Faults(latency=0.05, errors=0.05, cuts=0.02), seed=0) as proxy:
        read(proxy.url)

Requests go on as they came, with their Host, so that signatures stay valid.
"""

from .faults import FAULTS, Faults, Request, kind_of
from .proxy import FaultProxy

__all__ = ["FAULTS", "FaultProxy", "Faults", "Request", "kind_of"]
