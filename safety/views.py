"""A text as a reader might decode it: what hides in look-alikes, invisible characters, base64, hex or leet. Knows text.

A judge sees every view and the worst counts, so a view may raise a judgement, never clear one. The original is always
the first view and is what is kept and served.
"""

import base64
import binascii
import codecs
import itertools
import re
import unicodedata
from urllib.parse import unquote

MAX_VIEWS = 8
MAX_DECODED = 20_000
"""Characters of a decoded part that are judged."""

_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_-])(?:[A-Za-z0-9+/_-]{4}[ \t]*\r?\n?){4,}[A-Za-z0-9+/_-]{0,3}={0,2}")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:(?:\\x|0x)?[0-9A-Fa-f]{2}[ ,:]?){12,}(?![0-9A-Za-z])")
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2}){3,}")
_SPACED = re.compile(r"(?<!\w)(?:\w[ .\-_*|]){4,}\w(?!\w)")
_WORD = re.compile(r"(?<![0-9A-Za-z])[A-Za-z0134578@$!|+]{2,40}(?![0-9A-Za-z])")
_MIXED = re.compile(r"[A-Za-z][0134578@$!|+]+[A-Za-z]|^[0134578@$]+[A-Za-z]{2}")
_CODE = re.compile(r"[0-9A-Fa-f]{6,}")
_LEET = str.maketrans("0134578@$!|+", "oieastbasilt")
# Letters of other scripts that look like Latin ones: Cyrillic, Greek, Armenian, IPA (the common part of Unicode TR39).
_CONFUSABLE = str.maketrans(
    "абвеёіїјкмнорѕтухгпԁһԛԝցոսօАВЕЅІЈКМНОРСТУХԌԚԜαβγεηικνορτυχωΑΒΕΖΗΙΚΜΝΟΡΤΥΧсСꞵɡɑıℓ",
    "abbeeiijkmhopstyxrndhqwgnuoABESIJKMHOPCTYXGQWabyenikvoptuxwABEZHIKMNOPTYXcCbgail",
)
_TAGS = re.compile("[\U000e0020-\U000e007e]")
"""Invisible twins of ASCII, which models read and people do not see."""
_ROT13 = re.compile(r"\brot[- ]?13\b", re.IGNORECASE)
_REVERSED = re.compile(r"\b(?:reversed?|backwards?)\b", re.IGNORECASE)


def text_views(text: str) -> list[str]:
    """The text, then its other readings; at most MAX_VIEWS, each once.

    >>> text_views("h\\u200bеllo")  # a zero-width space and a Cyrillic letter
    ['h\\u200bеllo', 'hello']
    """
    plain = plain_view(text)
    views = [text, plain, *_decoded(plain)]
    if _TAGS.search(text):
        views.append(_TAGS.sub(lambda found: chr(ord(found[0]) - 0xE0000), text))
    if _is_leet(plain):
        views.append(_WORD.sub(_unleet, plain))
    if _SPACED.search(plain):
        views.append(_SPACED.sub(lambda found: re.sub(r"[ .\-_*|]", "", found[0]), plain))
    if _ROT13.search(plain):
        views.append(codecs.decode(plain, "rot13"))
    if _REVERSED.search(plain):
        views.append(plain[::-1])
    return list(dict.fromkeys(view for view in views if view))[:MAX_VIEWS]


def plain_view(text: str) -> str:
    """Compatibility forms folded (NFKC), invisible characters gone, look-alikes of other scripts as Latin letters.

    Look-alikes are replaced in words that mix scripts and in texts that are mostly Latin: Russian stays Russian.
    """
    if text.isascii() and text.isprintable():
        return text
    folded = unicodedata.normalize("NFKC", text)
    visible = "".join(char for char in folded if char in "\n\t" or not _is_invisible(char))
    stripped = "".join(c for c in unicodedata.normalize("NFD", visible) if unicodedata.category(c) != "Mn")
    # A combining mark on a Latin letter hides it; in other scripts marks are part of the word.
    base = unicodedata.normalize("NFC", stripped if any("a" <= c.lower() <= "z" for c in stripped) else visible)
    letters = [char for char in base if char.isalpha()]
    is_latin = 2 * sum(char.isascii() for char in letters) >= len(letters)
    return re.sub(r"\w+", lambda found: _latin(found[0], is_latin), base)


def _is_invisible(char: str) -> bool:
    """Format and control characters, unassigned ones, variation selectors, tags and blank letters."""
    return (
        unicodedata.category(char) in ("Cf", "Cc", "Cn", "Co")
        or char in "\u115f\u1160\u3164\uffa0\u034f\u2800"
        or (0xFE00 <= ord(char) <= 0xFE0F or 0xE0100 <= ord(char) <= 0xE01EF)
    )


def _latin(word: str, in_latin_text: bool) -> str:
    """The word in Latin letters if it mixes scripts, or looks Latin as a whole in a text that is."""
    if word.isascii():
        return word
    swapped = word.translate(_CONFUSABLE)
    mixes = any(char.isascii() and char.isalpha() for char in word)
    return swapped if mixes or (in_latin_text and swapped.isascii()) else word


def _decoded(text: str) -> list[str]:
    """What base64, hex and percent signs hide, each in place of its code."""
    views = []
    for pattern, decode in ((_BASE64, _from_base64), (_HEX, _from_hex), (_PERCENT, unquote)):
        found = pattern.sub(lambda match, decode=decode: decode(match[0]) or match[0], text)
        if found != text:
            views.append(found[: len(text) + MAX_DECODED])
            # base64 of base64: once more, no further
            again = _BASE64.sub(lambda match: _from_base64(match[0]) or match[0], found)
            if pattern is _BASE64 and again != found:
                views.append(again)
    return views


def _from_base64(code: str) -> str:
    squeezed = re.sub(r"\s", "", code).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return _as_text(base64.b64decode(squeezed + "=" * (-len(squeezed) % 4), validate=True))
    except (binascii.Error, ValueError):
        return ""


def _from_hex(code: str) -> str:
    try:
        return _as_text(bytes.fromhex(re.sub(r"\\x|0x|[ ,:]", "", code)))
    except ValueError:
        return ""


def _as_text(data: bytes) -> str:
    """UTF-8 text that a person could read; empty for anything else."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    readable = sum(char.isprintable() or char in "\n\t\r" for char in text)
    letters = sum(char.isalpha() or char.isspace() for char in text)
    return text if text and readable == len(text) and letters >= 0.6 * len(text) else ""


def _is_leet(text: str) -> bool:
    """Whether digits and signs stand inside words as letters do, in two words or more: 4t least tw0 w0rds."""
    mixed = (word for word in _WORD.findall(text) if _MIXED.search(word) and not _CODE.fullmatch(word))
    return len(list(itertools.islice(mixed, 2))) == 2


def _unleet(found: re.Match[str]) -> str:
    word = found[0]
    return word.translate(_LEET) if any(char.isalpha() for char in word) else word
