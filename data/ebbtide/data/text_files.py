"""The content of a text file as UTF-8 bytes, whatever its encoding."""

from __future__ import annotations

import codecs
from pathlib import Path

from ebbtide.data.errors import DataError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    # Before UTF-16, as its mark begins with the same two bytes.
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LFS = b"version https://git-lfs"
_BINARY = {
    b"PAR1": "a Parquet file; name it .parquet",
    b"\x1f\x8b": "a gzip file; unpack it with gunzip",
    b"\x28\xb5\x2f\xfd": "a Zstandard file; unpack it with zstd -d",
    b"PK\x03\x04": "a zip file or an Excel workbook; unpack it, or save it as CSV UTF-8",
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
    data = path.read_bytes()
    for magic, what in _BINARY.items():
        if data.startswith(magic):
            raise DataError(f"{path}: got {what}")
    for bom, name in _BOMS:
        if data.startswith(bom):
            return _transcoded(path, data[len(bom) :], name)
    fault = _fault(data)
    if fault is None and b"\0" not in data:
        return data
    if encoding is not None:
        return _transcoded(path, data, encoding)
    if fault is None or b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        raise DataError(
            f"{path}: line {line}: got a NUL byte; expected UTF-8 text. A UTF-16 file without a byte order mark is "
            "read with --encoding utf-16-le or utf-16-be"
        )
    begin = data.rfind(b"\n", 0, fault.start) + 1
    word = data[max(begin, fault.start - 10) : fault.start + 10].split(b"\n")[0].decode("cp1252", "replace").strip()
    raise DataError(
        f"{path}: line {data.count(bytes([10]), 0, fault.start) + 1}: got byte 0x{data[fault.start]:02x}, which is not "
        f"UTF-8; name the encoding, or save the file as UTF-8. --encoding cp1252 (Latin-1) gives {word!r} there"
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


def _transcoded(path: Path, data: bytes, encoding: str) -> bytes:
    try:
        text = data.decode(encoding)
    except LookupError:
        raise DataError(
            f"{path}: encoding: got {encoding!r}; expected one that Python knows, such as latin-1, cp1252 or utf-16"
        ) from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {line}: got byte 0x{data[error.start]:02x}, which is not {encoding}; expected a file in one "
            "encoding (--encoding names it)"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise DataError(f"{path}: line {line}: got a NUL character in {encoding} text; expected another --encoding")
    return text.encode()
