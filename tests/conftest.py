"""Settings that must stand before JAX is first imported."""

import os

# Four CPU devices stand in for four accelerators.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"
