"""A module that starts a thread when it is imported, as some libraries do."""

import threading

STOP = threading.Event()
threading.Thread(target=STOP.wait, daemon=True).start()
