"""The members of tar and zip files, listed without extracting them."""

import contextlib
import gzip
import logging
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

from alexnet_jax import UserError
from alexnet_jax.runtime import files

log = logging.getLogger("alexnet_jax")

AGAIN = "download it again"
MOST_HEADER = 2**16  # bytes of an extended header, which holds a file's name and attributes
RECORD = 2**20  # bytes; more than the zeros at the end of an archive: tar pads to 10 kB, other tools a little more
COMPRESSED = (  # (first bytes, format, a command that writes to its output)
    (b"\x1f\x8b", "gzip", "gzip -dc"),
    (b"BZh", "bzip2", "bzip2 -dc"),
    (b"\xfd7zXZ\0", "xz", "xz -dc"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc"),
    (b"PK\x03\x04", "zip", "unzip -p"),
)
NO_ZIP = (ArithmeticError, LookupError, NotImplementedError, RuntimeError, ValueError, zipfile.BadZipFile)
ENCRYPTED = 1  # a flag of a zip file's member


def tar_members(
    path: files.Path, within: tarfile.TarInfo | None = None, name: files.Path = ""
) -> Iterator[tarfile.TarInfo]:
    """The files in the tar file `path`, or in its member `within`. Offsets count from the start of `path`.

    Args:
      name: of the archive in messages; by default its path.

    Raises:
      UserError: it is not a whole tar file.
    """
    name = f"{path}, {within.name}" if within else str(name or path)
    others = 0
    with files.reading(path) as file:
        end = os.fstat(file.fileno()).st_size
        if within:
            file.seek(within.offset_data)
            end = within.offset_data + within.size
        _check_format(file, name)
        headers: Any = _Headers(file)
        try:
            with tarfile.open(fileobj=headers, mode="r:") as archive:
                for member in archive:
                    if member.size < 0 or member.offset_data + member.size > end:
                        raise tarfile.ReadError(f"{member.name} goes beyond its end")
                    if member.isfile() and not member.issparse():
                        yield member
                    elif not member.isdir():
                        others += 1
                # tarfile stops at any block that is not a header. An intact archive ends in at least a block of zeros.
                file.seek(archive.offset)
                rest = file.read(min(end - archive.offset, RECORD + 1))
            if not tarfile.BLOCKSIZE <= len(rest) <= RECORD or rest.strip(b"\0"):
                raise tarfile.ReadError(f"damaged at byte {archive.offset}")
        except tarfile.TarError as error:
            raise UserError(f"{name}: not a complete archive ({error}); {AGAIN}") from error
        except (ArithmeticError, LookupError, RecursionError, ValueError) as error:
            # tarfile recurses for each header that extends the next, and believes the numbers in it.
            raise UserError(f"{name}: not a complete archive (wrong extended headers); {AGAIN}") from error
    if others:
        log.warning("%s: %d of its members are not used: links, devices or sparse files", name, others)


class _Headers:
    """The file of an archive, of which `tarfile` may read only headers: their sizes could be the whole file's."""

    def __init__(self, file: IO[bytes]):
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MOST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._read(size)


def _check_format(file, name):
    """Raises UserError if a file begins as something that is often found instead of a tar file. Keeps its position."""
    start = file.tell()
    first = file.read(512)
    file.seek(start)
    if first.lstrip().startswith(b"<"):
        raise UserError(f"{name}: is a web page, probably an error message; {AGAIN}")
    check_no_pointer(first, name)
    for beginning, kind, command in COMPRESSED:
        if first.startswith(beginning):
            raise UserError(f"{name}: is compressed by {kind}; decompress it ({command}) into a file of the same name")


def check_no_pointer(data: bytes, name: files.Path) -> None:
    """Raises UserError if a file begins as what Git leaves in a clone without Git LFS."""
    if data.startswith(b"version https://git-lfs"):
        raise UserError(f"{name}: is a pointer of Git LFS, not the file itself; get it by git lfs pull")


def packed_members(path: files.Path, wanted: dict[str, int]) -> dict[str, bytes]:
    """Some files in a tar file that may be compressed by gzip.

    Args:
      wanted: the ends of their paths, and how many bytes each may have.

    Returns:
      {end of the path: the file's bytes}, of those that are there.

    Raises:
      UserError: it is not a whole tar file, or one of the files has too many bytes or is there twice.
    """
    with contextlib.ExitStack() as stack:
        tar = path
        with files.reading(path) as file:
            if file.read(2) == b"\x1f\x8b":
                unpacked = stack.enter_context(tempfile.NamedTemporaryFile())
                file.seek(0)
                _unpack(path, file, unpacked, 2 * sum(wanted.values()) + RECORD)
                tar = unpacked.name
        found: dict[str, tarfile.TarInfo] = {}
        for member in tar_members(tar, name=path):
            name = next((name for name in wanted if f"/{member.name}".endswith(f"/{name}")), None)
            if name is None:
                continue
            if name in found or member.size > wanted[name]:
                raise UserError(f"{path}: {member.name!a} is there twice, or has {member.size:,} bytes; {AGAIN}")
            found[name] = member
        version = files.version(tar)
        return {name: files.read_part(tar, version, x.offset_data, x.size) for name, x in found.items()}


def _unpack(path: files.Path, packed: IO[bytes], unpacked: IO[bytes], most: int) -> None:
    """Unpacks gzip. Raises UserError if it is damaged, or unpacks to more than `most` bytes."""
    try:
        with gzip.GzipFile(fileobj=packed) as file:
            while block := file.read(RECORD):
                unpacked.write(block)
                if unpacked.tell() > most:
                    raise ValueError("it unpacks to too many bytes")
        unpacked.flush()
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise UserError(f"{path}: not a complete archive ({error}); {AGAIN}") from error


def zip_names(path: files.Path) -> list[str]:
    """The names of the files in the zip file `path`. Raises UserError if it is not a whole zip file."""
    return [member.filename for member in _zip_directory(path)]


def _zip_directory(path):
    with files.reading(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                return [member for member in archive.infolist() if not member.is_dir()]
        except NO_ZIP as error:
            raise UserError(f"{path}: not a complete zip file ({error}); {AGAIN}") from error
        except OSError as error:  # an offset before the start
            raise UserError(f"{path}: not a complete zip file ({error.strerror or error}); {AGAIN}") from error


def zip_members(path: files.Path) -> list[zipfile.ZipInfo]:
    """The files in the zip file `path`, in the order of its directory.

    Raises:
      UserError: it is not a whole zip file, or a file in it is encrypted or compressed in an unusual way.
    """
    members, (end, _) = _zip_directory(path), files.version(path)
    names = set()
    for member in members:
        if member.filename in names:
            raise UserError(f"{path}: holds {member.filename!a} twice; {AGAIN}")
        names.add(member.filename)
        if member.flag_bits & ENCRYPTED or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(
                f"{path}: {member.filename!a} is encrypted, or compressed in an unusual way; extract it, and name the "
                "directory instead"
            )
        if not 0 <= member.header_offset <= end - member.compress_size:
            raise UserError(f"{path}: not a complete zip file ({member.filename!a} goes beyond its end); {AGAIN}")
    return members
