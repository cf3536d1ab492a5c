"""The commit is read from files: nothing that a folder of data names is ever run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from doorstep.register.lineage import code_commit

COMMIT = "9f2c1b7e04d5a6b8c9d0e1f2a3b4c5d6e7f80912"
OTHER = "0" * 40


def repository(folder: Path, head: str, **files: str) -> Path:
    git = folder / ".git"
    for name, text in {"HEAD": head, **files}.items():
        path = git / name.replace("__", "/").replace("packed_refs", "packed-refs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_detached_head_is_the_commit(tmp_path: Path) -> None:
    assert code_commit(repository(tmp_path, COMMIT + "\n")) == COMMIT


def test_a_branch_is_found_from_a_folder_inside(tmp_path: Path) -> None:
    repository(tmp_path, "ref: refs/heads/main\n", refs__heads__main=COMMIT + "\n")
    inner = tmp_path / "data" / "2024"
    inner.mkdir(parents=True)
    assert code_commit(inner) == COMMIT


def test_a_loose_ref_wins_over_a_packed_one(tmp_path: Path) -> None:
    packed = f"# pack-refs with: peeled\n{OTHER} refs/heads/main2\n{COMMIT} refs/heads/main\n"
    repository(tmp_path, "ref: refs/heads/main", packed_refs=packed + f"^{OTHER}\n")
    assert code_commit(tmp_path) == COMMIT
    repository(tmp_path, "ref: refs/heads/main", refs__heads__main="1" * 40)
    assert code_commit(tmp_path) == "1" * 40


def test_a_linked_work_tree_has_the_refs_of_its_main_one(tmp_path: Path) -> None:
    main = repository(tmp_path / "main", "ref: refs/heads/main", refs__heads__side=COMMIT)
    linked = main / ".git" / "worktrees" / "side"
    linked.mkdir(parents=True)
    (linked / "HEAD").write_text("ref: refs/heads/side\n")
    (linked / "commondir").write_text("../..\n")
    side = tmp_path / "side"
    side.mkdir()
    (side / ".git").write_text(f"gitdir: {linked}\n")
    assert code_commit(side) == COMMIT


@pytest.mark.parametrize(
    "head",
    ["", "ref: refs/heads/none", "ref: ../../secret", "ref: refs/../../secret", "nonsense",
     "ref: /etc/passwd", COMMIT + COMMIT, "ref: refs/heads/\0", COMMIT.upper(), "A" * 5000],
)  # fmt: skip
def test_a_head_that_names_no_commit_is_empty(tmp_path: Path, head: str) -> None:
    (tmp_path / "secret").write_text(COMMIT)
    folder = tmp_path / "a"
    folder.mkdir()
    assert code_commit(repository(folder, head)) == ""


def test_a_pipe_for_a_head_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()
    os.mkfifo(tmp_path / ".git" / "HEAD")
    assert code_commit(tmp_path) == ""


def test_no_repository_is_empty(tmp_path: Path) -> None:
    assert code_commit(tmp_path) == ""


def test_what_the_config_of_the_folder_names_does_not_run(tmp_path: Path) -> None:
    """A real repository whose fsmonitor would leave a mark, and does when git is asked."""
    folder, mark = tmp_path / "data", tmp_path / "ran"
    folder.mkdir()
    script = tmp_path / "monitor"
    script.write_text(f"#!/bin/sh\ntouch {mark}\n")
    script.chmod(0o755)
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    (folder / "rows.csv").write_text("a\n")
    subprocess.run([*git, "add", "rows.csv"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "rows"], check=True)
    (folder / "rows.csv").write_text("b\n")
    said = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    subprocess.run([*git, "config", "core.fsmonitor", str(script)], check=True)
    assert code_commit(folder) == said.stdout.strip()
    assert not mark.exists()
    subprocess.run([*git, "status"], check=False, capture_output=True)
    assert mark.exists()
