"""Where the gateway keeps things: memory (tests, and Redis being down) and Redis."""
