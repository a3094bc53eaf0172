"""Text that others wrote, made fit to be shown: hidden characters visible, long text cut, Markdown no markup.

Prompts and answers are under review. A right-to-left override, a zero-width space or a tag character may be the very
reason for a flip, or an attack on the reader; both must be seen.
"""

import re
import unicodedata

_HIDDEN = re.compile(
    "[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$:&])")


def reveal(text: str) -> str:
    r"""Characters that cannot be seen, or not be written to XML, by their code point; line breaks and tabs stay.

    >>> reveal("a\u202eb\x00")
    'a⟨U+202E⟩b⟨U+0000⟩'
    """
    text = text.replace("\r\n", "\n")
    return "".join(f"⟨U+{ord(char):04X}⟩" if _is_hidden(char) else char for char in text)


def reveal_line(text: str) -> str:
    """The same in one line: every run of white space is a space."""
    return " ".join(reveal(text).split())


def escape_markdown(text: str) -> str:
    r"""Text of others where Markdown is read (a label, a caption): one line, nothing of it is markup.

    >>> escape_markdown("**x** :red[y]")
    '\\*\\*x\\*\\* \\:red\\[y\\]'
    """
    return _MARKUP.sub(r"\\\1", reveal_line(text))


def split_start(text: str, limit: int) -> tuple[str, str]:
    """What can be left out, and the end of at most `limit` characters: a prompt's question stands at its end.

    The end begins with a paragraph where one begins in its first half, so that worked examples are left out whole.
    """
    if len(text) <= limit:
        return "", text
    start = len(text) - limit
    border = text.find("\n\n", start - 2, start + limit // 2)
    if border >= 0:
        start = border + 2
    return text[:start], text[start:]


def cut_start(text: str, limit: int) -> str:
    """The end of a text with a note of how much was left out before it."""
    cut, rest = split_start(text, limit)
    return f"[… {len(cut):,} characters cut] {rest}" if cut else text


def _is_hidden(char: str) -> bool:
    if char in "\n\t":
        return False
    return unicodedata.category(char) in ("Cc", "Cs") or bool(_HIDDEN.match(char))
