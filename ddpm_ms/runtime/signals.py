"""What asks a process to stop."""

import signal

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SAME_REQUEST_SECONDS = 0.5  # a launcher and a terminal both deliver; that is one request
