"""One run as one file: how its records are written, and how a file from anywhere is read.

The file begins with a line `holdfast-run FORMAT SHA256`; the checksum is that of all that follows, which is compressed
by zstd. Inside stand records: a line of JSON each, and after it as many bytes as its `size` says, where it has one.
`zstd -d` shows them to a person.

A file is bounded before it is read, and its content while it is decompressed. The checksum finds what happened to it on
its way; whoever makes a file up makes up the checksum, too, and meets the types of the records.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from hashlib import sha256
from io import BufferedReader, BytesIO
from pathlib import Path

import zstandard
from pydantic import ValidationError

from agents.errors import BadArchive, StorageError
from checkpoints.archive_records import CONTENT_BYTES_MAX, Item, Record, any_record

__all__ = ["pack", "read_file", "unpack", "write_file"]

_FORMAT = 1
_HEAD = re.compile(rb"holdfast-run (\d{1,9}) ([0-9a-f]{64})\n")
_FILE_BYTES_MAX = 128 * 2**20
_LINE_MAX = 16 * 2**20
_WINDOW_LOG = 26
"""How far back, as a power of two, the compressor finds what came before: states of one run resemble each other."""
_LEVEL = 6


def pack(items: Iterable[Item]) -> bytes:
    """The content of a file.

    Raises:
        StorageError: it is more than a file may hold.
    """
    options = zstandard.ZstdCompressionParameters.from_level(_LEVEL, window_log=_WINDOW_LOG, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=options).compressobj()
    packed = bytearray()
    whole = 0
    for record, body in items:
        for part in (record.model_dump_json().encode() + b"\n", body):
            whole += len(part)
            packed += compressor.compress(part)
    packed += compressor.flush()
    if whole > CONTENT_BYTES_MAX or len(packed) > _FILE_BYTES_MAX:
        raise StorageError(
            f"the run takes {whole:,} bytes, {len(packed):,} compressed; a file may hold {CONTENT_BYTES_MAX:,} and"
            f" {_FILE_BYTES_MAX:,}; nothing was exported; copy the database instead"
        )
    return b"holdfast-run %d %s\n" % (_FORMAT, sha256(packed).hexdigest().encode()) + packed


def unpack(data: bytes) -> Iterator[Item]:
    """The records of a file's content.

    Raises:
        BadArchive: what is wrong with it. The message follows the file's name.
    """
    head = _HEAD.match(data)
    if head is None:
        raise BadArchive("is no run that was exported")
    if int(head[1]) != _FORMAT:
        raise BadArchive(f"has format {int(head[1])}, and this program reads format {_FORMAT}")
    packed = memoryview(data)[head.end() :]
    if sha256(packed).hexdigest().encode() != head[2]:
        raise BadArchive("is damaged or cut off: its checksum is not that of its content")
    decompressor = zstandard.ZstdDecompressor(max_window_size=2**_WINDOW_LOG)
    try:
        with decompressor.stream_reader(BytesIO(packed)) as stream:
            yield from _items(BufferedReader(stream))
    except zstandard.ZstdError as error:
        raise BadArchive(f"cannot be decompressed ({error})") from error


def _items(stream: BufferedReader) -> Iterator[Item]:
    left = CONTENT_BYTES_MAX
    while line := stream.readline(min(left, _LINE_MAX) + 1):
        record = _parsed(line)
        size = getattr(record, "size", 0)
        left -= len(line) + size
        if left < 0:
            raise BadArchive(f"holds more than {CONTENT_BYTES_MAX:,} bytes")
        body = stream.read(size)
        if len(body) < size:
            raise BadArchive("is cut off in the middle of a record")
        yield record, body


def _parsed(line: bytes) -> Record:
    if not line.endswith(b"\n"):
        raise BadArchive(f"is cut off in the middle of a record, or has one of more than {_LINE_MAX:,} bytes")
    try:
        return any_record.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"][:4])
        raise BadArchive(f"has a record that does not fit ({where:.100}: {first['msg']:.200})") from None


def write_file(path: Path, data: bytes) -> None:
    """Write a new file, for its owner alone, in one piece: there is the whole of it under its name, or nothing.

    Raises:
        StorageError: something has that name already, or it cannot be written.
    """
    draft = path.parent / f"{path.name}.{os.getpid()}.new"
    try:
        if path.exists() or path.is_symlink():
            raise FileExistsError(0, "it is there already")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
        _sync_folder(path.parent)
    except OSError as error:
        if not isinstance(error, FileExistsError):
            with suppress(OSError):
                draft.unlink()
        why = error.strerror or str(error)
        raise StorageError(f"{path} cannot be written ({why}); nothing was exported; give another --to") from error


def read_file(path: Path) -> bytes:
    """The bytes of a file; raises BadArchive, whose message follows the file's name."""
    try:
        if not path.is_file():
            raise BadArchive("is no file" if path.exists() else "is not there")
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        raise BadArchive(f"cannot be read ({getattr(error, 'strerror', None) or error})") from error
    if len(data) > _FILE_BYTES_MAX:
        raise BadArchive(f"is longer than {_FILE_BYTES_MAX:,} bytes")
    return data


def _sync_folder(folder: Path) -> None:
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
