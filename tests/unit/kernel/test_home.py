from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from doorstep.core.errors import InputError, NotFoundError, RefusedError, UsageError
from doorstep.kernel.home import (
    FOLDERS,
    HOME_FILE,
    open_home,
    refuse_network,
    resolve_home,
    user_data_folder,
)
from doorstep.kernel.home_lock import HomeLock
from doorstep.kernel.mounts import (
    find_type,
    network_type,
    parse_mount_output,
    parse_proc_mounts,
    read_mounts,
)

PROC_MOUNTS = """\
/dev/vda / ext4 rw 0 0
tmpfs /tmp tmpfs rw 0 0
server:/export /mnt/team nfs4 rw 0 0
ada@host: /mnt/ada\\040s\\040disk fuse.sshfs rw 0 0
/dev/vdb /mnt/team/local xfs rw 0 0
drvfs /mnt/c 9p rw 0 0
broken
"""
MOUNTS = list(parse_proc_mounts(PROC_MOUNTS))


def test_the_argument_wins_then_the_variable_then_the_folder_here_then_the_users(tmp_path: Path):
    environ = {"DOORSTEP_HOME": "/var/doorstep", "HOME": "/home/ada", "XDG_DATA_HOME": "/data"}
    (tmp_path / ".doorstep").mkdir()
    assert resolve_home("/srv/x", environ, tmp_path) == Path("/srv/x")
    assert resolve_home(None, environ, tmp_path) == Path("/var/doorstep")
    del environ["DOORSTEP_HOME"]
    assert resolve_home(None, environ, tmp_path) == tmp_path / ".doorstep"
    (tmp_path / ".doorstep").rmdir()
    assert resolve_home(None, environ, tmp_path) == user_data_folder(environ, sys.platform)


def test_a_relative_home_is_beside_the_current_folder(tmp_path: Path):
    assert resolve_home("mine", {}, tmp_path) == tmp_path / "mine"
    assert resolve_home(None, {"DOORSTEP_HOME": "x/y"}, tmp_path) == tmp_path / "x" / "y"


def test_a_file_called_doorstep_is_no_home(tmp_path: Path):
    (tmp_path / ".doorstep").write_text("")
    assert resolve_home(None, {"HOME": "/home/ada"}, tmp_path) != tmp_path / ".doorstep"


def test_the_users_data_folder_follows_the_platform():
    environ = {"HOME": "/home/ada"}
    assert user_data_folder(environ, "linux") == Path("/home/ada/.local/share/doorstep")
    assert user_data_folder({**environ, "XDG_DATA_HOME": "/d"}, "linux") == Path("/d/doorstep")
    relative = {**environ, "XDG_DATA_HOME": "d"}
    assert user_data_folder(relative, "linux") == Path("/home/ada/.local/share/doorstep")
    mac = user_data_folder(environ, "darwin")
    assert mac == Path("/home/ada/Library/Application Support/doorstep")


def test_a_url_is_not_a_home_yet(tmp_path: Path):
    with pytest.raises(UsageError, match="s3://bucket") as refused:
        resolve_home("s3://bucket/home", {}, tmp_path)
    assert refused.value.code == "home-not-a-folder"


def test_a_made_home_has_its_folders_and_keeps_its_identity(tmp_path: Path):
    made = open_home(tmp_path / "a" / "home", create=True, environment="staging")
    assert all((made.path / name).is_dir() for name in FOLDERS)
    assert {made.keys.stat().st_mode & 0o777, made.run.stat().st_mode & 0o777} == {0o700}
    assert made.environment == "staging"
    assert open_home(made.path) == made == open_home(made.path, create=True, environment="other")


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_new_home_is_its_owners_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    before = os.umask(0o022)
    try:
        made = open_home(tmp_path / "above" / "home", create=True)
    finally:
        os.umask(before)
    assert mode(made.path) == 0o700
    assert caplog.messages == []


@pytest.mark.parametrize("was", [0o755, 0o750, 0o701, 0o770])
def test_a_home_that_others_could_enter_is_closed_once_and_said(
    tmp_path: Path, was: int, caplog: pytest.LogCaptureFixture
):
    made = open_home(tmp_path / "home", create=True)
    made.path.chmod(was)
    for _ in range(2):
        assert open_home(made.path, create=True) == made
    assert mode(made.path) == 0o700
    assert [str(made.path) in said for said in caplog.messages] == [True]


def test_opening_a_home_to_read_it_changes_no_mode(tmp_path: Path):
    made = open_home(tmp_path / "home", create=True)
    made.path.chmod(0o755)
    open_home(made.path)
    assert mode(made.path) == 0o755


def test_a_home_that_is_not_there_is_not_made_by_opening_it(tmp_path: Path):
    with pytest.raises(NotFoundError) as refused:
        open_home(tmp_path / "home")
    assert (refused.value.code, refused.value.hint) == ("no-home", "doorstep up")
    assert not (tmp_path / "home").exists()


def test_a_home_of_a_newer_release_is_refused(tmp_path: Path):
    open_home(tmp_path, create=True)
    file = tmp_path / HOME_FILE
    file.write_text(file.read_text().replace("format = 1", "format = 2"))
    with pytest.raises(RefusedError, match=r"format 2.*up to 1") as refused:
        open_home(tmp_path, create=True)
    assert refused.value.code == "home-too-new"


@pytest.mark.parametrize(
    "text",
    ["", "format = 'x'", "format = 0", "format = true", "not toml", "format = 1", "\x00", "\udcff",
     "format = 1\nid = 'x'\nenvironment = '../x'", "format = 1\nid = 'x'\nenvironment = 7"],
)  # fmt: skip
def test_a_damaged_home_file_is_named(tmp_path: Path, text: str):
    open_home(tmp_path, create=True)
    (tmp_path / HOME_FILE).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=HOME_FILE) as refused:
        open_home(tmp_path)
    assert refused.value.code == "bad-home"


def test_a_home_that_is_a_file_cannot_be_written(tmp_path: Path):
    (tmp_path / "home").write_text("")
    with pytest.raises(RefusedError) as refused:
        open_home(tmp_path / "home", create=True)
    assert refused.value.code == "home-not-writable"


READ_ONLY = """
import os, sys, pathlib
from doorstep.core.errors import DoorstepError
from doorstep.kernel.home import open_home
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
try:
    open_home(pathlib.Path(sys.argv[1]), create=sys.argv[2] == "create")
except DoorstepError as error:
    print(error.code)
"""


@pytest.mark.parametrize("how", ["create", "open"])
def test_a_home_that_is_not_writable_is_refused(how: str):
    # Not under tmp_path, which another user cannot enter: root may write everywhere.
    with tempfile.TemporaryDirectory() as outer:
        Path(outer).chmod(0o755)
        home = Path(outer) / "home"
        open_home(home, create=True)
        home.chmod(0o555)
        asked = [sys.executable, "-c", READ_ONLY, str(home), how]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=60)
        home.chmod(0o755)
    assert done.stdout.strip() == "home-not-writable", done.stderr


@pytest.mark.parametrize(
    ("path", "kind", "network"),
    [
        ("/home/ada", "ext4", ""),
        ("/tmp/x", "tmpfs", ""),
        ("/mnt/team", "nfs4", "nfs4"),
        ("/mnt/team/home", "nfs4", "nfs4"),
        ("/mnt/teams", "ext4", ""),
        ("/mnt/team/local/x", "xfs", ""),
        ("/mnt/ada's disk/x", "ext4", ""),
        ("/mnt/ada s disk/x", "fuse.sshfs", "fuse.sshfs"),
        ("/mnt/c/x", "9p", "9p"),
    ],
)
def test_the_deepest_mount_says_what_a_path_is_on(path: str, kind: str, network: str):
    assert find_type(Path(path), MOUNTS) == kind
    assert network_type(Path(path), MOUNTS) == network


def test_a_later_mount_hides_an_earlier_one_on_the_same_point():
    assert find_type(Path("/a"), [("/", "rootfs"), ("/", "nfs")]) == "nfs"


def test_a_sandbox_whose_root_is_9p_is_one_machine():
    assert network_type(Path("/home"), [("/", "9p")]) == ""


def test_the_output_of_a_macs_mount_is_read():
    text = "/dev/disk3s1 on / (apfs, local)\n//ada@nas/x on /Volumes/My Share (smbfs, nodev)\n"
    mounts = list(parse_mount_output(text))
    assert mounts == [("/", "apfs"), ("/Volumes/My Share", "smbfs")]
    assert network_type(Path("/Volumes/My Share/home"), mounts) == "smbfs"


def test_this_machine_tells_what_is_mounted():
    assert find_type(Path("/"), read_mounts()) != "unknown"


def test_sqlite_on_a_network_file_system_is_refused_with_a_way_out():
    with pytest.raises(RefusedError, match="nfs4") as refused:
        refuse_network(Path("/mnt/team/home"), MOUNTS)
    assert refused.value.code == "home-on-network"
    assert "--database postgresql://" in refused.value.hint


def test_a_second_up_is_told_which_process_holds_the_home(tmp_path: Path):
    home = open_home(tmp_path, create=True)
    with HomeLock(home), pytest.raises(RefusedError, match=str(os.getpid())) as refused:
        HomeLock(home).__enter__()
    assert refused.value.code == "home-in-use"
    with HomeLock(home):
        pass


HOLD = """
import sys, time, pathlib
from doorstep.kernel.home import open_home
from doorstep.kernel.home_lock import HomeLock
with HomeLock(open_home(pathlib.Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path):
    home = open_home(tmp_path, create=True)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
    with pytest.raises(RefusedError, match=str(holder.pid)):
        HomeLock(home).__enter__()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    with HomeLock(home):
        pass
