"""The AiiDA transport `openssh`.

Uses `transport` and below; AiiDA itself is imported only here.
"""

from __future__ import annotations

from opensshtransport.aiida.faults import ConnectionFault
from opensshtransport.aiida.transport import OpenSshTransport

__all__ = ["ConnectionFault", "OpenSshTransport"]
