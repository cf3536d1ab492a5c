from __future__ import annotations

import pytest

from doorstep.core.servicefile import parse_service_file
from doorstep.gate.basis import basis_of, conditions_digest, what_changed
from doorstep.gate.surface import GateBasis

FILE = """
service: loans
model: {label: risk, positive: bad}
data: {holdout: rows.csv}
gates: {quality: ["auc >= 0.7"], fairness: ["selection_rate_ratio >= 0.8"]}
"""


@pytest.mark.parametrize(
    ("change", "is_same"),
    [
        (("", ""), True),
        (("service: loans", "# a comment\nservice: loans\npurpose: to lend"), True),
        (("auc >= 0.7", "auc >= 0.8"), False),
        (("ratio >= 0.8", "ratio >= 0.5"), False),
        (("positive: bad", "positive: bad, favourable: good"), False),
        (("service: loans", "service: loans\nserve: {timeout: 3 s}"), False),
        (("gates: {", 'gates: {speed: ["p99 <= 20 ms"], '), False),
    ],
)
def test_what_gates_read_of_the_file_has_a_digest_and_nothing_else_has(change, is_same) -> None:
    before, after = parse_service_file(FILE), parse_service_file(FILE.replace(*change))
    assert (conditions_digest(before) == conditions_digest(after)) is is_same


def test_a_verdict_expires_with_what_it_rests_on() -> None:
    file = parse_service_file(FILE)
    basis = basis_of(file, "c1", "h1")
    assert what_changed(basis, basis_of(file, "c1", "h1")) == ""
    assert what_changed(basis, basis_of(file, "c2", "h1")) == "another champion serves"
    assert what_changed(basis, basis_of(file, "c1", "h2")) == "the held-out rows are others"
    changed = what_changed(GateBasis(), basis)
    assert changed.startswith("the gates of the service file have changed and another champion")
