"""Files as samples: what a network sees of them."""

from __future__ import annotations

import csv
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from noa_model_server.manifest import BytesReader, CsvReader, WavReader

__all__ = ["UnreadableError", "samples_of"]

_WHITESPACE = b" \t\n\r\x0b\x0c"
_BLOCK_BYTES = 4096


class UnreadableError(Exception):
    """A file gives no sample; the text says why."""


def samples_of(path: Path, reader: BytesReader | WavReader | CsvReader) -> Iterator[npt.NDArray[np.float64]]:
    """The samples of a file in order, each a vector of `reader.size` numbers.

    Raises:
        UnreadableError: It gives none, or none from here on.
        OSError: It cannot be read.
    """
    if isinstance(reader, BytesReader):
        return _ends(path, reader)
    if isinstance(reader, WavReader):
        return _windows(path, reader)
    return _rows(path, reader)


def _ends(path: Path, reader: BytesReader) -> Iterator[npt.NDArray[np.float64]]:
    block = max(_BLOCK_BYTES, reader.first, reader.last)
    with open(path, "rb") as file:
        first = file.read(block)
        file.seek(max(0, file.seek(0, 2) - block))
        last = file.read(block)
    head = first.lstrip(_WHITESPACE)[: reader.first]
    if len(head) < reader.least:
        raise UnreadableError(f"it has fewer than {reader.least} bytes beside whitespace")
    tail = last.rstrip(_WHITESPACE)[-reader.last :] if reader.last else b""
    sample = np.full(reader.size, reader.padding, dtype=np.float64)
    sample[: len(head)] = np.frombuffer(head, dtype=np.uint8)
    if tail:
        sample[-len(tail) :] = np.frombuffer(tail, dtype=np.uint8)
    yield sample


def _windows(path: Path, reader: WavReader) -> Iterator[npt.NDArray[np.float64]]:
    try:
        with wave.open(str(path), "rb") as sound:
            found = (sound.getnchannels(), sound.getsampwidth() * 8, sound.getframerate())
            if found != (1, 16, reader.rate):
                raise UnreadableError(
                    f"it has {found[0]} channels of {found[1]} bit at {found[2]} Hz, expected 1 of 16 at {reader.rate}"
                )
            before = np.zeros(reader.context, dtype=np.float64)
            while len(data := sound.readframes(reader.window)) == reader.window * 2:
                window = np.frombuffer(data, dtype="<i2").astype(np.float64) / 32768
                sample = np.concatenate([before, window])
                yield sample
                before = sample[len(sample) - reader.context :]
    except (wave.Error, EOFError) as error:
        raise UnreadableError(f"it is no WAV file: {str(error) or 'it ends too early'}") from error


def _rows(path: Path, reader: CsvReader) -> Iterator[npt.NDArray[np.float64]]:
    with open(path, encoding="utf-8", newline="") as file:
        try:
            rows = csv.DictReader(file)
            missing = [name for name in reader.columns if name not in (rows.fieldnames or ())]
            if missing:
                raise UnreadableError(f"it has no column {', '.join(missing)}")
            for row in rows:
                try:
                    yield np.array([float(row[name]) for name in reader.columns])
                except (TypeError, ValueError) as error:
                    raise UnreadableError(f"line {rows.line_num}: {error}") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise UnreadableError(f"it is no CSV file in UTF-8: {error}") from error
