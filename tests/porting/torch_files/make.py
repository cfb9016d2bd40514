"""Makes the files of this folder, with PyTorch: python -m tests.porting.torch_files.make

They were made with PyTorch 2.13.0, and hold what `content` gives.
"""

import collections
import pathlib

import numpy as np
import torch

FOLDER = pathlib.Path(__file__).parent


def content() -> dict:
    base = torch.arange(24, dtype=torch.float32)
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64,
              torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    return {
        "state_dict": collections.OrderedDict({
            "whole": base, "rows": base.view(2, 3, 4)[1], "columns": base.view(4, 6).t(),
            "every_third": base[1::3], "scalar": torch.tensor(7.0), "empty": torch.zeros(0, 3),
            "expanded": torch.tensor([2.0]).expand(5),
            "parameter": torch.nn.Parameter(torch.tensor([[1.5, -2.5]])),
            **{str(dtype).removeprefix("torch."): torch.tensor([0, 1, 1]).to(dtype)
               for dtype in dtypes}}),
        "epoch": 12, "loss": 0.25, "best": np.float64(0.5), "history": [(1, {"psnr": base[5]})],
        "name": "größer", "flag": True, "nothing": None, "size": base.view(4, 6).size(),
        "device": torch.device("cpu"), "array": np.arange(3.0)}


def main() -> None:
    torch.save(content(), FOLDER / "zip.pth")
    torch.save(content(), FOLDER / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save({"uint16": torch.full((2, 3), 60_000, dtype=torch.uint16),
                "float8": torch.tensor([0.5, -2.0]).to(torch.float8_e4m3fn)},
               FOLDER / "since_2_1.pth")
    module = torch.nn.Sequential(torch.nn.Linear(2, 1))
    torch.save(module, FOLDER / "module.pt")
    torch.jit.save(torch.jit.script(module), FOLDER / "torchscript.pt")
    torch.serialization.set_crc32_options(False)
    torch.save({"ones": torch.ones(3)}, FOLDER / "without_checksums.pth")


if __name__ == "__main__":
    main()
