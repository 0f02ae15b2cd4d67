"""Text as bytes, and characters that are not finished yet: which code points a few first bytes of UTF-8 can still become."""

from tokenry.core.errors import UserError

Text = bytes | str
"""Bytes, or whole characters that are taken as UTF-8."""


def as_bytes(text: Text) -> bytes:
    """Take characters as UTF-8.

    Raises:
        UserError: the text ends in half a character, which only bytes can hold.
    """
    if isinstance(text, bytes):
        return text
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the text holds a piece of a character ({text[error.start]!r} at {error.start}), which a str cannot: give bytes."
        ) from error
    if text.endswith("\N{REPLACEMENT CHARACTER}"):
        raise UserError(
            "the text ends in U+FFFD, where bytes were cut inside a character and decoded: give the bytes themselves."
        )
    return data


def code_points(begun: bytes) -> range:
    """The code points whose UTF-8 begins with these bytes, which are less than a whole character; empty where there are none."""
    missing = missing_bytes(begun)
    if not missing:
        return range(0)
    length = len(begun) + missing
    number = begun[0] & (0x7F >> length)
    for byte in begun[1:]:
        number = number << 6 | byte & 0x3F
    first, last = number << 6 * missing, (number + 1 << 6 * missing) - 1
    # Overlong forms, surrogates and what lies beyond Unicode are no characters.
    first = max(first, {2: 0x80, 3: 0x800, 4: 0x10000}[length])
    if first <= 0xD800 <= last:
        last = 0xD7FF
    elif 0xD800 < first <= 0xDFFF:
        return range(0)
    return range(first, min(last, 0x10FFFF) + 1)


def missing_bytes(begun: bytes) -> int:
    """Number of bytes that an unfinished character still needs, by its first byte; 0 where these bytes begin no character."""
    if not begun or any(byte & 0xC0 != 0x80 for byte in begun[1:]):
        return 0
    first = begun[0]
    length = 2 * (0xC2 <= first < 0xE0) + 3 * (0xE0 <= first < 0xF0) + 4 * (0xF0 <= first < 0xF5)
    return max(0, length - len(begun))


def split_unfinished(data: bytes) -> tuple[bytes, bytes]:
    """Cut off the character that is not finished at the end of `data`, if there is one."""
    for back in range(1, min(3, len(data)) + 1):
        if data[-back] & 0xC0 != 0x80:
            return (data[:-back], data[-back:]) if code_points(data[-back:]) else (data, b"")
    return data, b""
