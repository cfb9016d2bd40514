"""Stands for the checkpoints of a run."""


class Kept:
    """Takes note of what is saved."""

    def __init__(self):
        self.saved = []

    def save(self, state, meta, *, score):
        self.saved.append((float(state), meta["step"], score))
