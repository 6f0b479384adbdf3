"""Files that survive a kill at any moment: atomic replacement, append-only JSON lines, one writer at a time."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segrobust.core.errors import UserError

try:
    import fcntl
except ImportError:  # not a POSIX system: there a second writer is not noticed
    fcntl = None  # type: ignore[assignment]

_LOG = logging.getLogger(__name__)
_PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


@contextlib.contextmanager
def clear_io_errors(action: str, advice: str) -> Iterator[None]:
    """Turn an ``OSError`` (unwritable folder, full disk, ...) into a one-line ``UserError``."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot {action}: {error.strerror or error}; {advice}") from error


def read_json(path: Path) -> Any:
    """What a JSON file of a user's holds; UserError: it is no JSON. FileNotFoundError: it is not there."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON ({error})") from None


def replace_file(path: Path, data: bytes) -> None:
    """Write ``path`` as a whole or not at all: temporary file beside it, fsync, rename.

    Raises:
        UserError: the folder cannot be written or the disk is full; the file keeps its old content.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with clear_io_errors(f"write {path}", "its old content, if any, is kept"):
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _PLAIN, 0o644)
            try:
                _write_all(handle, data)
                os.fsync(handle)
            finally:
                os.close(handle)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
    _sync_folder(path.parent)


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The complete JSON objects of a file and the number of bytes they take.

    What a kill or a power cut left after the last complete line is not counted. Damage in front of a complete line
    cannot come from a kill and is an error.

    Raises:
        UserError: a damaged line, or an unreadable file.
    """
    with clear_io_errors(f"read {path}", "check the permissions of the run folder"):
        data = path.read_bytes()
    records: list[dict[str, Any]] = []
    offset = complete = 0
    damaged = None
    for number, line in enumerate(io.BytesIO(data), start=1):
        offset += len(line)
        record = _parse(line)
        if record is None:
            damaged = damaged or number
        elif damaged:
            raise UserError(f"{path}, line {damaged}: not a complete row; delete this line or start anew with --fresh")
        else:
            records.append(record)
            complete = offset
    return records, complete


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


class AppendFile:
    """An append-only file of JSON lines: an incomplete end is cut off on opening and after a failed write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        length = read_lines(path)[1] if path.exists() else 0
        with clear_io_errors(f"open {path}", "check that the run folder can be written"):
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _PLAIN, 0o644)
            os.ftruncate(self._handle, length)
        _sync_folder(path.parent)
        self._length = length

    def append(self, records: list[Any], durable: bool = True) -> None:
        """Append all ``records``, on disk when this returns (unless not ``durable``).

        Raises:
            UserError: the disk is full or failing; the file then holds exactly what it held before.
        """
        # NaN and infinity are refused, so that any JSON reader can read the lines
        lines = (json.dumps(record, separators=(",", ":"), allow_nan=False) for record in records)
        data = "".join(f"{line}\n" for line in lines).encode()
        with clear_io_errors(f"write {self.path}", "the rows before it are kept: make room and run the command again"):
            try:
                _write_all(self._handle, data)
                if durable:
                    os.fsync(self._handle)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._handle, self._length)
                raise
        self._length += len(data)

    def close(self) -> None:
        os.close(self._handle)


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def only_process(path: Path, patience: float = 5.0) -> Iterator[None]:
    """Hold the lock file ``path``; the system frees it however the process ends. A wait is told when it begins.

    A POSIX record lock belongs to this process alone: forked data loader workers that outlive it do not keep it.

    Raises:
        UserError: another process still holds it after ``patience`` seconds.
    """
    with clear_io_errors(f"open {path}", "check that the run folder can be written"):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | _PLAIN, 0o644)
    try:
        folder, end = path.parent.parent, None
        while not _try_lock(handle):
            if end is None:
                _LOG.warning("another process is using %s; waiting up to %g s for its end", folder, patience)
                end = time.monotonic() + patience
            elif time.monotonic() > end:
                raise UserError(
                    f"another process is using {folder}, which a run keeps until its checks and report are done; "
                    "wait for it or use another --work-dir"
                )
            time.sleep(0.05)
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks
        return True
    return True
