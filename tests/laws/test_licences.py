"""What the workbench is made of may be used and passed on: all that it needs has a licence on the list."""

import re
from importlib import metadata

import pytest

from tests.laws.test_dependencies import declared, normal

ALLOWED = re.compile(
    r"0BSD|Apache|BSD|MIT|ISC|MPL|Mozilla|PSF|Python Software Foundation|Unlicense|Zlib|CNRI-Python|BSL-1\.0|CC0|HPND|"
    r"Public Domain|LLVM-exception",
    re.IGNORECASE,
)
WEAK_COPYLEFT = {"psycopg", "psycopg-binary", "chardet"}
"""LGPL: used unchanged as libraries, which it allows."""
WORDS = re.compile(r"\s+(?:AND|OR|WITH)\s+|[()|,;]+")


def needed() -> set[str]:
    """Everything that is installed for the core and its extras, followed through what each asks for."""
    found: set[str] = set()
    waiting = list(declared())
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            requires = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed here
        found.add(name)
        plain = [line for line in requires if "extra ==" not in line]
        waiting += [normal(match[0]) for line in plain if (match := re.match(r"[\w.-]+", line))]
    return found


def licences(name: str) -> list[str]:
    """SPDX expression, else the classifiers, else the field, as single licences."""
    about = metadata.metadata(name)
    classified = [one.rpartition("::")[2].strip() for one in about.get_all("Classifier") or () if "License ::" in one]
    text = about.get("License-Expression") or "|".join(classified) or (about.get("License") or "").partition("\n")[0]
    return [part.strip() for part in WORDS.split(text) if part.strip() and part.strip() not in ("OSI Approved",)]


@pytest.mark.parametrize("name", sorted(needed()))
def test_each_licence_is_on_the_list(name: str) -> None:
    found = licences(name)
    assert found, f"{name} names no licence: look at it and put it on the list by hand"
    odd = [one for one in found if not ALLOWED.search(one) and one != "DFSG approved"]
    assert not odd or normal(name) in WEAK_COPYLEFT, f"{name}: {odd}"


def test_no_licence_that_would_bind_our_users_slips_through() -> None:
    for text in ("GPL-3.0-only", "AGPL-3.0-or-later", "SSPL-1.0", "Proprietary", "CC-BY-NC-4.0"):
        assert not ALLOWED.search(text)
