"""Counts the slices that are in memory at a time."""

import threading


class Alive:
    """The slices in memory: those that some calls made, without those that other calls took."""

    def __init__(self):
        self.now = self.most = 0
        self._lock = threading.Lock()

    def counted(self, call, change):
        """A call that changes the number."""
        def counting(*args, **options):
            result = call(*args, **options)
            with self._lock:
                self.now += change
                self.most = max(self.most, self.now)
            return result
        return counting
