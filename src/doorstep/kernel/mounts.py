"""Which file system a path is on, and whether SQLite may live there.

Linux says it in /proc/mounts, everything else in the output of `mount`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

MOUNT_WAIT_S = 5
UNKNOWN = "unknown"
_NETWORK_TYPES = """
    nfs nfs4 cifs smb smb2 smb3 smbfs afs afpfs ncpfs webdav davfs 9p ceph glusterfs lustre beegfs
    gpfs ocfs2 gfs2 fuse.sshfs fuse.s3fs fuse.rclone fuse.gcsfuse fuse.glusterfs fuse.ceph
    fuse.davfs fuse.davfs2 fuse.goofys fuse.juicefs fuse.blobfuse2
"""
NETWORK = frozenset(_NETWORK_TYPES.split())
_ESCAPE = re.compile(r"\\([0-7]{3})")
_MAC = re.compile(r".* on (?P<point>.+) \((?P<kind>[^,)]+)")

Mounts = list[tuple[str, str]]
"""(mount point, type), in the order in which they were mounted."""


def network_type(path: Path, mounts: Mounts) -> str:
    """The type of the network file system that `path` is on (or would be); "" for a local one.

    9p counts as a network (a share from a host), unless the root is 9p as well: that is a sandbox
    on one machine, whose whole disk comes from its host.
    """
    kind = find_type(path, mounts)
    if kind == "9p" and find_type(Path("/"), mounts) == "9p":
        return ""
    return kind if kind in NETWORK else ""


def find_type(path: Path, mounts: Mounts) -> str:
    """The type of the deepest mount above `path`; of two on one point the later hides the other."""
    holders = [
        (len(Path(point).parts), number, kind)
        for number, (point, kind) in enumerate(mounts)
        if path.is_relative_to(point)
    ]
    return max(holders)[2] if holders else UNKNOWN


def read_mounts(platform: str = sys.platform) -> Mounts:
    """What is mounted on this machine; empty if it cannot be known."""
    if platform == "linux":
        try:
            return list(parse_proc_mounts(Path("/proc/mounts").read_text(errors="replace")))
        except OSError:
            return []
    try:
        done = subprocess.run(["mount"], capture_output=True, text=True, timeout=MOUNT_WAIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return list(parse_mount_output(done.stdout))


def parse_proc_mounts(text: str) -> Iterator[tuple[str, str]]:
    """Lines of /proc/mounts: device, point (octal escapes for blanks), type, options."""
    for line in text.splitlines():
        fields = line.split(" ")
        if len(fields) >= 3:
            yield _ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[1]), fields[2]


def parse_mount_output(text: str) -> Iterator[tuple[str, str]]:
    """Lines of BSD `mount`: `/dev/disk3s1 on /Volumes/Data (apfs, local, journaled)`."""
    for match in map(_MAC.match, text.splitlines()):
        if match:
            yield match["point"], match["kind"]
