"""Texts that a page must show as text, and a terminal must not obey."""

HOSTILE = [
    "<script>alert(1)</script>",
    "</style><script>alert(2)</script>",
    "</script><script>alert(3)</script>",
    '"><img src=x onerror=alert(4)>',
    "' onmouseover='alert(5)",
    "<!--",
    "]]>",
    "&lt;b&gt;",
    "{{ 7 * 7 }}{% raw %}",
    "\x00",
    "\x1b[31m",
    "\ud83d",
    "\u202edesrever\u202c",
    "\u200f",
    "👩‍👩‍👧",
    "x" * 5000,
    "",
]
