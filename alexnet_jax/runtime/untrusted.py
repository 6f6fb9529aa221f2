"""Reads what other programs wrote as pickles or for MATLAB, in a process of its own."""

import os
import pathlib
import signal
import subprocess
import sys
from typing import IO

import numpy as np

from alexnet_jax.runtime import files

# The limits. For AlexNet's 244 MB they are 84 s of computing and 4 GB; a core of 2 GHz takes 3 s, with PyTorch's
# import, and 1.2 GB.
SECONDS, BYTES_PER_SECOND = 60, 10_000_000
MEMORY, MEMORY_PER_BYTE = 2_000_000_000, 8
PATIENCE = 10  # seconds on the clock for each second of computing: a slow disk takes no computing


def read(file: IO[bytes], kind: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays in a file, and the texts beside them, as `untrusted_reader` finds them.

    Args:
      kind: a key of `untrusted_reader.READERS`.

    Raises:
      ValueError: the file holds something else; or its reader crashes, or takes too much time or memory.
    """
    size = os.fstat(file.fileno()).st_size
    seconds, memory = SECONDS + size // BYTES_PER_SECOND, MEMORY + MEMORY_PER_BYTE * size
    # Without the current directory among those that it imports from, and without warnings.
    program = [sys.executable, "-P", "-W", "ignore", str(pathlib.Path(__file__).with_name("untrusted_reader.py"))]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # the stack of each would count as memory
    try:
        done = subprocess.run(
            [*program, kind, str(seconds), str(memory)],
            stdin=file,
            capture_output=True,
            timeout=PATIENCE * seconds,
            env=os.environ | one_thread,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"reading it takes more than {PATIENCE * seconds} s") from error
    if done.returncode == -signal.SIGXCPU:
        raise ValueError(f"reading it takes more than {seconds} s of computing")
    if done.returncode < 0:
        raise ValueError(f"its reader was ended by {signal.Signals(-done.returncode).name}")
    if done.returncode:
        raise ValueError(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])
    return files.parse_safetensors(done.stdout)
