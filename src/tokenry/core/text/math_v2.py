r"""Answers as the evaluation of MATH in OpenCompass finds and compares them (its version 2), to the letter, for comparable figures.

    math_v2_answer   the last \boxed{…}, else the first sentence with "final answer" or "answer is", else the first one, tidied up
    math_v2_equal    equal once notation, units and words are stripped away; no arithmetic: 0.5 and 1/2 differ, nothing equals nothing

A sentence ends at any point, so "3.5" is cut to 3. `tokenry.core.text.answers` reads numbers instead.

Source: OpenCompass, MATHEvaluator(version='v2'), as the release of SIFT (arXiv 2502.14922) uses it.
"""

import re

_SENTENCE = re.compile("final answer|answer is")
_BOX = r"\boxed"

# In this order: each looks at what the ones before it have left.
_TIDIED = [
    *[
        ("an ", ""),
        ("a ", ""),
        (".$", "$"),
        (r"\$", ""),
        ("\\ ", ""),
        (" ", ""),
        ("mbox", "text"),
        (r",\text{and}", ","),
    ],
    *[(r"\text{and}", ","), (r"\text{m}", r"\text{}"), (r"\le", "<")],
    *[
        (dropped, "")
        for dropped in (
            *["square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units"],
            r"\ldots",
            *[
                "sue",
                "points",
                "feet",
                "minutes",
                "digits",
                "cents",
                "degrees",
                "cm",
                "gm",
                "pounds",
                "meters",
                "meals",
            ],
            *["edges", "students", "childrentickets", "multiples"],
            *(
                r"\text{s}",
                r"\text{.}",
                "\\text{\ns}",
                r"\text{}^2",
                r"\text{}^3",
                "\\text{\n}",
                r"\text{}",
                r"\mathrm{th}",
            ),
            *(r"^\circ", r"^{\circ}", r"\;", r",\!", "{,}", '"', r"\dots", "\n", "\r", "\f"),
            *("am", "pm", ":00"),
        )
    ],
]
_UNWRAPPED = [
    r"\\text\{\((.*?)\)\}",
    r"\\text\{(.*?)\}",
    r"\\textbf\{(.*?)\}",
    r"\\overline\{(.*?)\}",
    r"\\boxed\{(.*)\}",
]
_INSIDE = [r"finalansweris(.*)", r"answer?is:?(.*)", r"oxed\{(.*?)\}", r"\$(.*?)\$"]

_STRIPPED_BEFORE_UNITS = [
    ("\n", ""),
    (r"\!", ""),
    ("\\ ", ""),
    ("\\\\", "\\"),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
]
_STRIPPED_BEFORE_UNITS += [(r"\left", ""), (r"\right", "")]
_STRIPPED_AFTER_UNITS = [
    *[
        (r"^{\circ}", ""),
        (r"^\circ", ""),
        (r"\$", ""),
        ("$", ""),
        (r"\text", ""),
        (r"x\in", ""),
        (r"\%", ""),
        ("%", ""),
    ],
    *[(" .", " 0."), ("{.", "{0."), (r"\cdot", ""), ("infinity", r"\infty")],
]


def boxed_answer(text: str) -> str | None:
    r"""What stands in the last `\boxed{…}`, one extra pair of braces taken away; None if there is none or it is not closed."""
    start = text.rfind(_BOX)
    if start < 0 or not text.startswith("{", start + len(_BOX)):
        return None
    begin, depth = start + len(_BOX) + 1, 1
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            inside = text[begin:place]
            doubled = re.match(r"\{(.*)\}$", inside)
            return doubled[1] if doubled else inside
    return None


def math_v2_answer(text: str) -> str:
    """Find the answer in a response."""
    if boxed := boxed_answer(text):
        return boxed
    sentences = text.split(".")
    return _tidied(
        next((sentence for sentence in sentences if _SENTENCE.search(sentence.lower())), sentences[0])
    )


def math_v2_equal(one: str | None, other: str | None) -> bool:
    """Whether two answers are the same by notation; None equals None."""
    if one is None or other is None:
        return one is other
    stripped, also_stripped = _stripped(one), _stripped(other)
    if stripped is None or also_stripped is None:
        return one == other or _tidied(one) == _tidied(other)
    return stripped == also_stripped or any(
        _tidied(a) == _tidied(b) for a, b in ((stripped, also_stripped), (one, other))
    )


def _tidied(answer: str) -> str:
    """An answer without words, units and wrapping; shorthand fractions and roots written out."""
    answer = _replaced(answer, _TIDIED)
    for wrapped in _UNWRAPPED:
        answer = re.sub(wrapped, r"\1", answer)
    for pattern in _INSIDE:
        answer = (re.findall(pattern, answer) or [answer])[-1]
    answer = answer.strip()
    if "rac" in answer and r"\frac" not in answer:
        answer = answer.replace("rac", r"\frac")
    answer = re.sub("frac([^{])(.)", r"frac{\1}{\2}", answer)
    answer = re.sub("sqrt([^{])", r"sqrt{\1}", answer).replace("$", "")
    digits = answer.replace(",", "")
    return digits if digits.isdigit() else answer


def _stripped(answer: str) -> str | None:
    """An answer in one notation; None for a single slash between anything but two integers, which is not compared this way."""
    answer = _replaced(answer.strip().replace("\n", "").rstrip("."), _STRIPPED_BEFORE_UNITS)
    # A unit at the end, unless it is all there is.
    answer = re.sub(r"\\text{.*?}$", "", answer).strip() or answer
    answer = _replaced(answer, _STRIPPED_AFTER_UNITS)
    if r"\infty" not in answer:
        answer = answer.replace("inf", r"\infty")
    answer = _replaced(answer, [(r"+\inity", r"\infty"), ("and", ""), (r"\mathbf", "")])
    answer = re.sub(r"\\mbox{.*?}", "", answer)
    if "i" not in answer:
        answer = answer.replace("j", "i")
    answer = re.sub(r"(\d+)\.0+$", r"\1", re.sub(r"(\d+)\.0+([^\d])", r"\1\2", answer))
    if not answer:
        return answer
    answer = f"0{answer}" if answer[0] == "." else answer
    name, *value = answer.split("=")
    answer = value[0] if len(value) == 1 and len(name) <= 2 else answer
    answer = re.sub(r"\\sqrt(\w+)", r"\\sqrt{\1}", answer).replace(" ", "")
    return _slash_as_fraction(_written_out(answer))


def _written_out(answer: str) -> str:
    r"""Every `\frac12` as `\frac{1}{2}`; unchanged as a whole where one of them is cut off."""
    first, *others = answer.split(r"\frac")
    if any(len(other) < 2 and other != "{" for other in others):
        return answer
    return first + "".join(rf"\frac{_braced(other)}" for other in others)


def _braced(arguments: str) -> str:
    if arguments[0] == "{":
        return arguments
    top, bottom = arguments[0], arguments[1]
    return f"{{{top}}}{arguments[1:]}" if bottom == "{" else f"{{{top}}}{{{bottom}}}{arguments[2:]}"


def _slash_as_fraction(answer: str) -> str | None:
    parts = answer.split("/")
    if len(parts) != 2:
        return answer
    try:
        top, bottom = map(int, parts)
    except ValueError:
        return None
    return rf"\frac{{{top}}}{{{bottom}}}" if answer == f"{top}/{bottom}" else answer


def _replaced(text: str, pairs: list[tuple[str, str]]) -> str:
    for old, new in pairs:
        text = text.replace(old, new)
    return text
