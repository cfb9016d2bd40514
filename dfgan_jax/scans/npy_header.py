"""The header of an `.npy`."""

import io
import pathlib

import numpy as np

from dfgan_jax.support.errors import InputError
from dfgan_jax.support.misplaced import content_of_failed_download
from dfgan_jax.support.safe_pickle import reason


def read_npy_header(path: pathlib.Path, file: io.BufferedIOBase
                    ) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and the dtype in the header of an `.npy`.

    Args:
      path: of the file, for messages.
      file: the file, at its start; afterwards, at the end of the header.

    Raises:
      InputError: the file is no `.npy`, or its header is broken.
    """
    if other := content_of_failed_download(path):
        raise InputError(f"{path}: is no .npy file: it {other}")
    prefix = np.lib.format.MAGIC_PREFIX
    if file.read(len(prefix)) != prefix:
        raise InputError(f"{path}: is no .npy file; expected one that np.save has written")
    file.seek(0)
    try:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0,
                       (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, _, dtype = read_header(file)
    except Exception as error:  # a broken header can raise anything; nothing is swallowed
        raise InputError(f"{path}: the header of its .npy cannot be used ({reason(error)})"
                         ) from error
    return shape, dtype
