"""The content of a text file as UTF-8 bytes, whatever its encoding."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ebbtide.data.errors import DataError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    # Before UTF-16, as its mark begins with the same two bytes.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_HEAD_BYTES = 4096
_LFS = b"version https://git-lfs"
_BINARY = {
    b"PAR1": "a Parquet file; name it .parquet",
    b"\x1f\x8b": "a gzip file; unpack it with gunzip",
    b"\x28\xb5\x2f\xfd": "a Zstandard file; unpack it with zstd -d",
    b"PK\x03\x04": "a zip file or an Excel workbook; unpack it, or save it as CSV UTF-8",
    b"ARROW1": "an Arrow file; write it as Parquet",
    b"BZh": "a bzip2 file; unpack it with bunzip2",
    b"\xfd7zXZ": "an xz file; unpack it with unxz",
    b"SQLite format 3": "a SQLite database; export the table as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save it as CSV UTF-8",
}


def refuse_pointer(path: Path) -> None:
    """Refuses an empty file, and the pointer that Git LFS leaves in place of a file.

    Raises:
        DataError: With what to do.
    """
    with path.open("rb") as file:
        head = file.read(len(_LFS))
    if not head:
        raise DataError(f"{path}: got an empty file; expected a table with a row for each event or item")
    if head == _LFS:
        raise DataError(f"{path}: got a Git LFS pointer, not the file itself; run `git lfs pull`")


def read_utf8(path: Path, encoding: str | None = None) -> bytes:
    """The content of a file as UTF-8 without a byte order mark.

    Args:
        path: The file.
        encoding: Python's name of the encoding of a file that has no byte order mark and is not UTF-8.

    Raises:
        DataError: The file is not text, or in another encoding.
    """
    if encoding is not None:
        _decoder(path, encoding)
    data = path.read_bytes()
    refuse_binary(path, data)
    for bom, name in _BOMS:
        if data.startswith(bom):
            return _transcoded(path, data[len(bom) :], name)
    return _as_utf8(path, data, encoding)


def read_utf8_pieces(
    path: Path, encoding: str | None, piece_bytes: int, *, quotes: bool
) -> Iterator[tuple[int, bytes]]:
    """The content of a file as UTF-8, in pieces of whole lines.

    Args:
        path: The file.
        encoding: As for `read_utf8`.
        piece_bytes: About how long a piece is; a longer line makes a longer piece.
        quotes: Whether a line end between two ``"`` belongs to a field and ends no line.

    Yields:
        The number of lines before the piece, and the piece.

    Raises:
        DataError: The file is not text, or in another encoding.
    """
    if encoding is not None:
        _decoder(path, encoding)
    lines = 0
    rest = b""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        refuse_binary(path, head)
        bom, name = next(((bom, name) for bom, name in _BOMS if head.startswith(bom)), (b"", None))
        if name is None and encoding is not None and b"\0" in head:
            # Encodings of two and four bytes; the line ends of all others are bytes of their own.
            name = encoding
        file.seek(len(bom))
        decoder = None if name is None else _decoder(path, name)
        while data := file.read(piece_bytes):
            if decoder is not None:
                data = _decoded(path, decoder, str(name), data, lines + rest.count(b"\n"))
            rest += data
            end = _end_of_lines(rest, quotes=quotes)
            if end:
                piece, rest = rest[:end], rest[end:]
                yield lines, piece if decoder else _as_utf8(path, piece, encoding, lines)
                lines += piece.count(b"\n")
        if decoder is not None:
            rest += _decoded(path, decoder, str(name), b"", lines, final=True)
        if rest:
            yield lines, rest if decoder else _as_utf8(path, rest, encoding, lines)


def _end_of_lines(data: bytes, *, quotes: bool) -> int:
    """Where the last line ends; 0 if none does."""
    if not quotes or b'"' not in data:
        return data.rfind(b"\n") + 1
    bytes_ = np.frombuffer(data, dtype=np.uint8)
    newlines, at = np.flatnonzero(bytes_ == ord("\n")), np.flatnonzero(bytes_ == ord('"'))
    ends = newlines[at.searchsorted(newlines) % 2 == 0]
    return int(ends[-1]) + 1 if ends.size else 0


def refuse_binary(path: Path, data: bytes) -> None:
    """Refuses the beginning of a file of another kind than text.

    Raises:
        DataError: With what to do.
    """
    for magic, what in _BINARY.items():
        if data.startswith(magic):
            raise DataError(f"{path}: got {what}")


def _as_utf8(path: Path, data: bytes, encoding: str | None, lines_before: int = 0) -> bytes:
    """Text without a byte order mark as UTF-8."""
    fault = _fault(data)
    if fault is None and b"\0" not in data:
        return data
    if encoding is not None:
        return _transcoded(path, data, encoding, lines_before)
    first = lines_before + 1
    if fault is None or b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + first
        raise DataError(
            f"{path}: line {line}: got a NUL byte; expected UTF-8 text. A UTF-16 file without a byte order mark is "
            "read with --encoding utf-16-le or utf-16-be"
        )
    begin = data.rfind(b"\n", 0, fault.start) + 1
    word = data[max(begin, fault.start - 10) : fault.start + 10].split(b"\n")[0].decode("cp1252", "replace").strip()
    raise DataError(
        f"{path}: line {data.count(bytes([10]), 0, fault.start) + first}: got byte 0x{data[fault.start]:02x}, which is "
        f"not UTF-8; name the encoding, or save the file as UTF-8. --encoding cp1252 (Latin-1) gives {word!r} there"
    )


def _fault(data: bytes) -> UnicodeDecodeError | None:
    """The first byte that is not UTF-8."""
    if data.isascii():
        return None
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error
    return None


def _transcoded(path: Path, data: bytes, encoding: str, lines_before: int = 0) -> bytes:
    return _decoded(path, _decoder(path, encoding), encoding, data, lines_before, final=True)


def _decoder(path: Path, encoding: str) -> codecs.IncrementalDecoder:
    try:
        # Fails for those that are no encodings of text, such as hex.
        b" ".decode(encoding, "replace")
        return codecs.getincrementaldecoder(encoding)()
    except LookupError:
        raise DataError(
            f"{path}: encoding: got {encoding!r}; expected one that Python knows, such as latin-1, cp1252 or utf-16"
        ) from None


def _decoded(
    path: Path,
    decoder: codecs.IncrementalDecoder,
    encoding: str,
    data: bytes,
    lines_before: int,
    *,
    final: bool = False,
) -> bytes:
    try:
        text = decoder.decode(data, final)
    except UnicodeDecodeError as error:
        found = bytes(error.object)
        line = found.count(b"\n", 0, error.start) + lines_before + 1
        raise DataError(
            f"{path}: line {line}: got byte 0x{found[error.start]:02x}, which is not {encoding}; expected a file in "
            "one encoding (--encoding names it)"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + lines_before + 1
        raise DataError(f"{path}: line {line}: got a NUL character in {encoding} text; expected another --encoding")
    return text.encode()
