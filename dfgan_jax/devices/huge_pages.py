"""Memory of the process, as the C library gives it."""

import os
import platform
import sys

HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""Value of GLIBC_TUNABLES that lets Linux give large arrays in pages of 2 MiB."""


def use_huge_pages() -> None:
    """Starts this program again, once, with huge pages.

    Each step of training takes and returns hundreds of MB, which Linux hands out in pages of
    4 KiB, each cleared and mapped on its own: about a tenth of a step's time on a CPU. glibc
    reads the setting only when a process starts. Whoever has set GLIBC_TUNABLES keeps it, and
    an empty one turns this off.
    """
    unset = "GLIBC_TUNABLES" not in os.environ
    if unset and sys.executable and platform.libc_ver()[0] == "glibc":
        os.environ["GLIBC_TUNABLES"] = HUGE_PAGES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
