"""One thread for PyTorch: pytest-xdist already runs a process on every core."""

import importlib.util

if importlib.util.find_spec("torch"):
    import torch

    torch.set_num_threads(1)
