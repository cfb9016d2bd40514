"""Memory allocation of the process by the C library."""

import os
import platform
import sys

HUGE_PAGES = "glibc.malloc.hugetlb=1"
"""Value of GLIBC_TUNABLES with which Linux allocates large arrays in pages of 2 MiB."""


def use_huge_pages() -> None:
    """Restarts this program once, with huge pages.

    Each step of training allocates and frees hundreds of MB. Linux clears and maps pages of 4 KiB
    one by one, which takes about a tenth of a step's time on a CPU. glibc reads the setting only
    at the start of a process. A user's own GLIBC_TUNABLES is kept; an empty value disables huge
    pages.
    """
    unset = "GLIBC_TUNABLES" not in os.environ
    if unset and sys.executable and platform.libc_ver()[0] == "glibc":
        os.environ["GLIBC_TUNABLES"] = HUGE_PAGES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
