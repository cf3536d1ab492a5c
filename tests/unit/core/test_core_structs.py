"""Threads that decode our types for the first time, all at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

AT_ONCE = """
import sys, threading
import msgspec
import doorstep.compose.serving
from doorstep.core import structs

sys.setswitchinterval(1e-6)
if sys.argv[1] == "prepared":
    structs.prepare_structs()
# These hold what JSON has no form for, and are never decoded.
never = {"Sequence", "Mapping", "_Open", "Segment", "TailPart", "Source"}
ours = [one for one in structs._loaded(msgspec.Struct) if one.__module__.startswith("doorstep.")]
ours = {one for one in ours if one.__name__ not in never}
assert len(ours) > 300
gate = threading.Barrier(8)

def decode():
    for one in sorted(ours, key=repr):
        given = msgspec.json.encode(dict.fromkeys(reversed(one.__struct_encode_fields__)))
        gate.wait()
        try:
            msgspec.json.decode(given, type=one)
        except (msgspec.MsgspecError, TypeError, NameError):
            pass

threads = [threading.Thread(target=decode) for _ in range(8)]
for one in threads:
    one.start()
for one in threads:
    one.join()
print("done")
"""


@pytest.mark.parametrize("times", range(3))
def test_threads_that_decode_prepared_types_at_once_do_not_crash(times: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AT_ONCE, "prepared"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
