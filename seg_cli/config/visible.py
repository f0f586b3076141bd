"""Text of others (names of files, classes and runs, reasons) as it may be shown: a terminal obeys none of it."""

import unicodedata


def visible(text: str) -> str:
    """The text with characters that control a terminal or the direction of writing spelled out."""
    if text.isprintable():
        return text
    return "".join(
        character if unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp") else ascii(character)[1:-1]
        for character in text
    )


def visible_lines(text: str) -> str:
    """The same of a text of several lines, which stay such."""
    return "\n".join(map(visible, text.split("\n")))


def no_formula(text: str) -> str:
    """The same as a cell of a CSV file that no spreadsheet takes for a formula."""
    text = visible(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
