"""``python -m ddpm_ms`` is the same program as ``ddpm-ms``."""

import sys

from ddpm_ms.cli import main

if __name__ == "__main__":
    sys.exit(main())
