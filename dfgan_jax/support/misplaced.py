"""Recognises files that are often found in the place of data: downloads that failed."""

import pathlib

_START_BYTES = 512


def content_of_failed_download(path: pathlib.Path) -> str | None:
    """Names the content of an empty file, a Git LFS pointer or a web page, in words.

    Args:
      path: of a file that exists.

    Returns:
      A phrase for after "path: "; None for every other content.
    """
    with path.open("rb") as file:
        start = file.read(_START_BYTES)
    if not start:
        return "is empty (0 bytes): was it copied or downloaded to the end?"
    if start.startswith(b"version https://git-lfs.github.com/"):
        return "is a Git LFS pointer, not the file itself, which `git lfs pull` fetches"
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")) or (
            text.startswith((b"<?xml", b"<!--")) and b"<html" in text):
        return ("is an HTML page, such as a server sends instead of a file: download it again, "
                "and look at the page in a browser if that repeats")
    if text.startswith(b"<?xml"):
        return "is an XML text, such as a server sends instead of a file: download it again"
    return None
