"""JSON Schema of the service file, for editors: `python -m doorstep.core.servicefile_schema`.

Made from the declarations that the parser reads, so that an editor and `doorstep check` agree. A
schema cannot say everything (order of steps, what fits together); `check` has the last word.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from doorstep.core.servicefile import FIXED_KEYS, ROOT

SCHEMA_ID = "https://doorstep.readthedocs.io/reference/doorstep.schema.json"


def service_file_schema() -> dict[str, Any]:
    """A JSON Schema (draft 2020-12) of `doorstep.yaml`."""
    whole = ROOT.schema(partial=False)
    whole["required"].remove("data")
    whole["anyOf"] = [{"required": ["data"]}, {"required": ["watch"]}]
    differences = ROOT.schema(partial=True)
    differences["properties"] = {
        name: one for name, one in differences["properties"].items() if name not in FIXED_KEYS
    }
    whole["properties"]["environments"]["additionalProperties"] = {"$ref": "#/$defs/differences"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "doorstep.yaml",
        "description": "What a service promises. Checked by: doorstep check",
        **whole,
        "$defs": {"differences": differences},
    }


def schema_text() -> str:
    """The published file."""
    return json.dumps(service_file_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema_text())
