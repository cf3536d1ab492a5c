"""Names and ids as they are written."""

from __future__ import annotations

import pytest

from doorstep.core.errors import InputError
from doorstep.core.ids import plain_prediction_id

ID = "0190a5c1-7b3e-7cc0-8f2d-3a1b2c3d4e5f"


@pytest.mark.parametrize(
    "text", [f"{ID}.0", ID, ID.upper(), f"{ID}.00", ID.replace("-", ""), f"{{{ID}}}.0"]
)
def test_a_prediction_has_one_plain_id_however_it_is_written(text: str) -> None:
    """Else an outcome of an erased prediction would pass for one of another."""
    assert plain_prediction_id(text) == f"{ID}.0"


def test_what_is_no_prediction_has_no_plain_id() -> None:
    with pytest.raises(InputError):
        plain_prediction_id("zzz.1")
