from __future__ import annotations

import subprocess
import sys

LIGHT = ("files", "mounts", "home", "home_lock", "blobs", "keys", "note", "trust", "settings")


def test_what_serving_processes_and_the_cli_import_does_not_load_the_database():
    """Nodes read the home and verify the plan; `doorstep trust` runs without a server."""
    asked = "; ".join(f"import doorstep.kernel.{name}" for name in LIGHT)
    banned = "{'sqlalchemy', 'alembic', 'duckdb', 'litestar', 'pandas', 'numpy', 'typer'}"
    script = f"import sys; {asked}; print(sorted({banned} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
