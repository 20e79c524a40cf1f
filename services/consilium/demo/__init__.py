"""Models that need no hub: a real small one from a wheel, tiny ones for tests, and the check of everybody else's folders."""
