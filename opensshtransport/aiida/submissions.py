"""Job submissions that AiiDA may repeat: the key by which the host recognizes one that it has run."""

from __future__ import annotations

import hashlib
import re

from opensshtransport.aiida.faults import AnyPath

# AiiDA's working directories end in the parts of the calculation's UUID.
_CALCULATION = re.compile(r"/([0-9a-f]{2})/([0-9a-f]{2})/([0-9a-f]{4}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})/?")

_SUBMISSION = re.compile(
    r"\s*(?:\S*/)?(?:sbatch|qsub|bsub|msub|ccc_msub|llsubmit|pjsub|oarsub|condor_submit"
    r"|hq\s+submit|flux\s+(?:batch|submit))\s.*",
    re.DOTALL,
)

# A submission of `core.direct`: the number of the job comes from a background process.
DIRECT = re.compile(r"\s*\(bash .* > /dev/null 2>&1 & echo \$!\) &\s*", re.DOTALL)


def submission_key(command: str, workdir: AnyPath | None) -> str | None:
    """The key under which a command may take effect only once, or None for any other command.

    It is made of the calculation's UUID, which the working directory ends in, and of the command.
    """
    found = _CALCULATION.search(str(workdir or ""))
    if found is None or found.end() != len(str(workdir)):
        return None
    if not _SUBMISSION.fullmatch(command) and not DIRECT.fullmatch(command):
        return None
    digest = hashlib.sha256(command.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return f"aiida-{''.join(found.groups())}-{digest}"
