"""Which columns look like personal data, by their name and by what is in them.

A suggestion for a person to confirm, not a finding: it errs on the side of asking.
"""

from __future__ import annotations

import re

from doorstep.formats.columns import Column

LOOKED_AT_MAX = 2000
SHARE_ALIKE = 0.5
_PHRASES = (
    "first name", "last name", "full name", "sur name", "surname", "given name", "family name",
    "maiden name", "customer name", "client name", "applicant name", "patient name", "contact name",
    "user name", "username", "email", "e mail", "mail address", "phone", "telephone", "mobile",
    "ssn", "social security", "iban", "passport", "driver license", "licence number", "tax id",
    "street", "address", "birth date", "date of birth", "birthdate", "dob", "ip address",
    "credit card", "card number", "account number", "national id",
)  # fmt: skip
_WHOLE = frozenset({"name", "names", "ip"})
_PROTECTED = (
    "sex", "gender", "race", "ethnicity", "religion", "nationality", "disability", "age",
    "marital status", "sexual orientation", "foreign worker", "pregnant",
)  # fmt: skip
_CONTENT = (
    re.compile(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}"),
    re.compile(r"\+[0-9][0-9 ()./-]{7,18}"),
    re.compile(r"\(?[0-9]{3}\)?[ .-][0-9]{3}[ .-][0-9]{4}"),
    re.compile(r"[0-9]{3}-[0-9]{2}-[0-9]{4}"),
    re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9 ]{11,30}"),
    re.compile(r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}"),
)


def words_of(name: str) -> str:
    """`customerFullName` and `customer_full_name` -> ` customer full name `."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return " " + re.sub(r"[^a-z0-9]+", " ", spaced.lower()).strip() + " "


def looks_personal(column: Column) -> bool:
    """Whether the name says so (`email`, `last_name`, `dob`), or at least half of the present texts
    are e-mail addresses, phone numbers, social security numbers, IBANs or IP addresses."""
    words = words_of(column.name)
    if words.strip() in _WHOLE or any(f" {phrase} " in words for phrase in _PHRASES):
        return True
    return column.kind == "text" and _content_is_personal(column)


def looks_protected(name: str) -> bool:
    """Whether the name is that of an attribute that law protects in many places."""
    words = words_of(name)
    return any(f" {phrase} " in words for phrase in _PROTECTED)


def _content_is_personal(column: Column) -> bool:
    texts = [text.strip() for text in column.values[:LOOKED_AT_MAX] if text]
    if not texts:
        return False
    alike = max(sum(1 for text in texts if pattern.fullmatch(text)) for pattern in _CONTENT)
    return alike >= SHARE_ALIKE * len(texts)
