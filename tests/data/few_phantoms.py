"""A configuration of few and small phantoms."""

from configs import attn


def few_phantoms(cache_dir):
    """The demo with slices of 32², three to train on, one to validate and two to test."""
    config = attn.get_config("demo")
    config.data.size = 32
    config.simulation.train_slices = 3
    config.simulation.valid_slices = 1
    config.simulation.test_slices = 2
    config.data.cache_dir = str(cache_dir)
    return config
