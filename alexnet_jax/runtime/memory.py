"""The memory of this machine."""

import os
import pathlib
import re
import zlib

import numpy as np
from jax.experimental import multihost_utils

CGROUPS = pathlib.Path("/sys/fs/cgroup")  # Linux's control groups, version 2
OWN_CGROUP = pathlib.Path("/proc/self/cgroup")  # holds this process's, as '0::/system.slice/job_1'


def of_host() -> int:
    """The bytes of this machine, or fewer if this process's container or job may only use a part."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    own = re.search(r"^0::/(.*)$", OWN_CGROUP.read_text() if OWN_CGROUP.exists() else "", re.MULTILINE)
    path = pathlib.PurePath(own[1] if own else "")
    for group in (path, *path.parents):
        file = CGROUPS / group / "memory.max"
        if file.exists() and (limit := file.read_text().strip()).isdecimal():  # otherwise it is 'max'
            limits.append(int(limit))
    return min(limits)


def processes_on_host() -> int:
    """How many processes of this training share this machine's memory. All of them must call it."""
    own = zlib.crc32(os.uname().nodename.encode()) >> 1
    return int((multihost_utils.process_allgather(np.int32(own)) == own).sum())
