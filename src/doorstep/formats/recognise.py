"""What a model file is, by its content and never by its name; and what a pickle would import.

Nothing here runs or unpickles anything. A file is one thing: there is no falling back from one
format to another, because that is how "safe" loaders are made to run pickles.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from doorstep.core.errors import InputError, NotFoundError, RefusedError
from doorstep.formats.onnx_file import read_onnx

Serialization = Literal["skops", "pickle", "joblib", "onnx", "source"]
MODEL_FILE_BYTES_MAX = 2 * 1024**3 - 1
ZIP_MEMBERS_MAX = 100_000
ZIP_BYTES_MAX = 4 * 1024**3
ZIP_RATIO_MAX = 200
GLOBALS_MAX = 200
OPCODES_MAX = 2_000_000
_COMPRESSED = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda", b"\x1f\x8b", b"BZh", b"\xfd7zXZ",
               b"\x5d\x00\x00", b"\x04\x22\x4d\x18")  # fmt: skip
_OTHERS = {
    b"\x89HDF": "an HDF5 (Keras) file",
    b"%PDF": "a PDF",
    b"\x93NUMPY": "a numpy array",
    b"PAR1": "a Parquet table",
    b"GGUF": "a GGUF language model",
}


def read_model_file(path: Path) -> bytes:
    """The bytes of a model file. Raises: NotFoundError (`no-file`), InputError (`bad-model`) when
    it is empty, RefusedError (`model-too-large`)."""
    if not path.is_file():
        raise NotFoundError("no-file", f"there is no file {path}", "name the model's file")
    size = path.stat().st_size
    if size == 0:
        raise InputError("bad-model", f"{path.name} is empty (0 bytes)")
    if size > MODEL_FILE_BYTES_MAX:
        raise RefusedError("model-too-large", f"{path.name} has {size:,} bytes; at most 2 GiB")
    return path.read_bytes()


def recognise(data: bytes, name: str) -> Serialization:
    """Which serialization the bytes are. name: for messages only, except that a `.py` file is
    source. Raises: InputError (`bad-model`), RefusedError (`zip-bomb`, `onnx-external-data`)."""
    if name.endswith(".py"):
        return "source"
    if data[:4] == b"PK\x03\x04":
        _check_skops(data, name)
        return "skops"
    if data.startswith(_COMPRESSED):
        return "joblib"
    if _is_pickle(data):
        return "joblib" if b"joblib.numpy_pickle" in data else "pickle"
    if data[:1] in (b"\x08", b"\x3a", b"\x42"):
        try:
            read_onnx(data)
        except InputError:
            raise _unknown(data, name) from None
        return "onnx"
    raise _unknown(data, name)


def _unknown(data: bytes, name: str) -> InputError:
    known = next((what for magic, what in _OTHERS.items() if data.startswith(magic)), "")
    found = f"{name} is {known}" if known else f"{name} is not a model that is known here"
    return InputError(
        "bad-model",
        f"{found} (it begins with {data[:8]!r}); expected ONNX, skops, pickle or joblib",
        "save it with skops.io.dump(model, 'model.skops')",
    )


def _is_pickle(data: bytes) -> bool:
    if data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    if data[:1] not in b"(c]}I.FSVlNdt":
        return False
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in _opcodes(data))
    except (ValueError, IndexError, UnicodeDecodeError, OverflowError):
        return False


def _check_skops(data: bytes, name: str) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            names = {member.filename for member in members}
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise InputError(
            "bad-model", f"{name} is a damaged zip archive: {error}", "save the model again"
        ) from None
    total = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    if (
        len(members) > ZIP_MEMBERS_MAX
        or total > ZIP_BYTES_MAX
        or total > ZIP_RATIO_MAX * max(packed, 4096)
    ):
        raise RefusedError(
            "zip-bomb",
            f"{name} would unpack {len(data):,} bytes into {total:,} in {len(members):,} parts; at "
            f"most {ZIP_RATIO_MAX} times as many",
        )
    if "schema.json" not in names:
        raise InputError(
            "bad-model",
            f"{name} is a zip archive but not a skops file (it has no schema.json)",
            "save it with skops.io.dump(model, 'model.skops')",
        )


def pickle_globals(data: bytes) -> tuple[str, ...]:
    """The names that loading this pickle would import (`sklearn.linear_model...`, `posix.system`),
    in order of first use, at most 200. Nothing is imported.

    The list is for people to read, not a verdict: a pickle that lists nothing odd can still run
    code. It ends where the bytes stop being a pickle (joblib writes arrays in between).
    """
    found: dict[str, None] = {}
    strings: list[str] = []
    try:
        for opcode, argument, _ in _opcodes(data):
            if opcode.name == "GLOBAL" or opcode.name == "INST":
                found[str(argument).replace(" ", ".")] = None
            elif opcode.name == "STACK_GLOBAL" and len(strings) >= 2:
                found[f"{strings[-2]}.{strings[-1]}"] = None
            elif isinstance(argument, str):
                strings.append(argument)
            if len(found) >= GLOBALS_MAX:
                break
    except (ValueError, IndexError, UnicodeDecodeError, OverflowError):
        pass
    return tuple(found)


def _opcodes(data: bytes) -> Iterator[tuple[pickletools.OpcodeInfo, object, int | None]]:
    for count, one in enumerate(pickletools.genops(data)):
        if count > OPCODES_MAX:
            raise ValueError("more opcodes than are read")
        yield one


def suspicious_globals(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those that have no business in a model: shells, files, networks, evaluation."""
    odd = re.compile(
        r"^(os|posix|nt|subprocess|sys|socket|shutil|builtins\.(eval|exec|open|getattr|__import__)"
        r"|__builtin__|importlib|runpy|code|pty|webbrowser|urllib|http|requests|ctypes|pickle"
        r"|operator\.attrgetter|functools\.reduce)(\.|$)"
    )
    return tuple(name for name in names if odd.match(name))
