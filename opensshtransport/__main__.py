"""`python -m opensshtransport` is `ossh`; the library starts its login process so."""

from __future__ import annotations

import sys

from opensshtransport.cli.start import main

if __name__ == "__main__":
    sys.exit(main())
