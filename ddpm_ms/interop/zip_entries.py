"""Where the entries of a zip archive lie in its file: for archives in which nothing is compressed, so that none expands."""

from __future__ import annotations

import io
import mmap
import zipfile
import zlib
from pathlib import Path

from ddpm_ms.errors import InputError, shown

LARGEST_DIRECTORY = 2**23  # bytes of the list of entries, for 80,000 of them; each byte takes 15 of memory


class ZipEntries:
    """The entries of the archive at ``path``, which is mapped as ``data``.

    Raises:
        InputError: it is cut short or damaged, has two entries of one name, or a list of entries beyond reason.
    """

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.data = data
        try:
            with _Directory(path) as file, zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
        except InputError:
            raise
        except Exception as error:  # a damaged archive raises errors of many kinds
            problem = " ".join(str(error).split()) or type(error).__name__
            raise InputError(f"is a zip archive that is cut short or damaged: {problem}") from None
        self.named = {entry.filename: entry for entry in entries}
        if len(self.named) != len(entries):
            raise InputError("is a zip archive with two entries of one name")

    def place(self, name: str) -> range:
        """Where the bytes of an entry are.

        Raises:
            InputError: there is none, or it is compressed or encrypted, or its bytes are not those that were written.
        """
        if name not in self.named:
            raise InputError(f"is damaged: its archive has no entry {shown(name)}")
        entry = self.named[name]
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.compress_size != entry.file_size:
            raise InputError(f"has an entry {shown(name)} that is compressed or encrypted, allowed: entries as torch.save "
                             "writes them")
        at = entry.header_offset
        header = self.data[at:at + 30] if at >= 0 else b""
        start = at + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        stop = start + entry.file_size
        if header[:4] != b"PK\3\4" or stop > len(self.data):
            raise InputError(f"is a zip archive that is cut short or damaged: {shown(name)} is not where it should be")
        with memoryview(self.data) as everything, everything[start:stop] as found:
            if zlib.crc32(found) != entry.CRC:
                raise InputError(f"is damaged: the checksum of {shown(name)} is wrong")
        return range(start, stop)


class _Directory(io.FileIO):
    """zipfile reads the list of entries at once, and believes whatever length it has."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > LARGEST_DIRECTORY:
            raise InputError(f"has an archive whose list of entries has {size} bytes, allowed: at most {LARGEST_DIRECTORY}")
        return super().read(size) or b""
