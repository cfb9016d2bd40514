"""Reads a slice in both of its ways, which must agree."""

import pathlib
import re

import numpy as np
import pytest

from dfgan_jax.scans import dicom
from dfgan_jax.scans.dicom import CTSlice
from dfgan_jax.support.errors import InputError


def read_slice(path: pathlib.Path) -> CTSlice:
    """`dicom.read_slice`, after the same by `read_pixels` and `read_stored`, or its error."""
    try:
        read = dicom.read_slice(path)
    except InputError as error:
        try:
            header, = dicom.read_headers(path)
        except InputError:
            raise error from None
        with pytest.raises(type(error), match=f"^{re.escape(str(error))}$"):
            dicom.read_pixels(header)
        raise
    header, = dicom.read_headers(path)
    assert header == read.header
    pixels = dicom.read_pixels(header)
    np.testing.assert_array_equal(pixels.hu, read.hu)
    np.testing.assert_array_equal(pixels.outside, read.outside)
    again = dicom.read_stored(header, pixels.outside)
    np.testing.assert_array_equal(again.stored, read.stored)
    assert again.stored.dtype.isnative
    return read
