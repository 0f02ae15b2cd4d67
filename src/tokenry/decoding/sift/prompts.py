r"""What SIFT asks of a model in each of its roles, in our own words; the fixed part of a prompt comes first, so that it is read once.

    SG    {query}                 -> a sticker: numbered conditions and one question, nothing else
    FO    {query}, {sticker}      -> the sticker, corrected against the query
    IG    {prediction}            -> the sticker that a solution was about; the query is not shown
    P_S, P_QS, P_Q                -> the sticker, both or the query, then: reason, and put the answer into \boxed{}

Source: SIFT: Grounding LLM Reasoning in Contexts via Stickers (arXiv 2502.14922), appendix; the wording is ours.
"""

import re
from dataclasses import dataclass
from typing import Literal

from tokenry.models.text_model import Prompt

Role = Literal["SG", "FO", "IG", "P_S", "P_QS", "P_Q"]
ROLES: dict[Role, str] = {
    "SG": "sticker generation",
    "FO": "forward optimisation",
    "IG": "inverse generation",
    "P_S": "prediction from the sticker",
    "P_QS": "prediction from question and sticker",
    "P_Q": "prediction from the question",
}

CONDITIONS, QUESTION = "**Conditions:**", "**Question:**"
_SLOT = re.compile(r"\{(query|sticker|prediction|text)\}")

_FORM = f"""Write exactly this form and nothing else:

{CONDITIONS}
1. [first condition]
2. [second condition]
...

{QUESTION}
[what is asked]"""

_STICKER = f"""{CONDITIONS}
1. Mara buys 3 boxes of candles.
2. Each box holds 12 candles.
3. Mara gives away 7 candles.

{QUESTION}
How many candles does Mara have left?"""

GENERATE = f"""Take the problem at the end apart into what it states and what it asks. Do not solve it.

- State every piece of information that is given, one condition per line, numbered. Leave nothing out and add nothing.
- A sentence that says two things becomes two conditions.
- Keep numbers, units, names and relations exactly as they are given.
- Ask the question in one sentence that does not repeat the conditions.

{_FORM}

An example. The problem

```
Mara buys 3 boxes of candles with 12 candles in each. How many does she have left after she has given away 7?
```

becomes

{_STICKER}

The problem:

```
{{query}}
```
"""

OPTIMISE = f"""A problem was taken apart into conditions and a question. Compare them with the problem at the end and correct them. Do not solve it.

- Add conditions that are missing, and correct those that say something else than the problem.
- Remove conditions that the problem does not state, and those that are stated twice.
- Make the question say exactly what is asked, and resolve contradictions.
- If everything is right, repeat it unchanged.

{_FORM}

A missing condition. "Each box holds 12 candles." is in the problem and not among the conditions: add it as a line of its own.

A redundant condition. "Mara has 36 candles." is a result, and the problem does not state it: remove it.

A vague question. "How many?" becomes "How many candles does Mara have left?"

An example of the corrected form:

{_STICKER}

The problem:

```
{{query}}
```

The conditions and the question:

```
{{sticker}}
```
"""

INVERT = f"""Somebody solved a problem; the solution is at the end. Write down which conditions and which question the solution was about.

- State the conditions that the solution takes as given, one per line, numbered.
- Leave out every step of the reasoning, every result and the answer.
- Ask the question in one sentence.

{_FORM}

An example. The solution

```
3 boxes of 12 candles are 36 candles. Without the 7 that Mara gives away, 36 - 7 = 29 candles are left. The answer is \\boxed{{29}}.
```

was about

{_STICKER}

The solution:

```
{{prediction}}
```
"""

ANSWER = r"""{text}

Reason step by step, and put your final answer into \boxed{}."""


@dataclass(frozen=True)
class SIFTPrompts:
    """The prompts of all roles; `{query}`, `{sticker}`, `{prediction}` and `{text}` stand for what a call is about.

    Attributes:
        generate: to write a sticker.
        optimise: to correct one against its query.
        invert: to write the sticker behind a prediction.
        answer: to answer what stands in `{text}`: a sticker, a query, or a query and a sticker with a blank line between them.
        chat: whether prompts are conversations; False for models that continue a text.
    """

    generate: str = GENERATE
    optimise: str = OPTIMISE
    invert: str = INVERT
    answer: str = ANSWER
    chat: bool = True

    def prompt(self, role: Role, query: str, about: str = "") -> Prompt:
        """The prompt of a call; what is put in is not searched for slots.

        Args:
            role: what is asked.
            query: the question, which IG and P_S are not shown.
            about: the sticker; for IG the prediction.
        """
        template = {"SG": self.generate, "FO": self.optimise, "IG": self.invert}.get(role, self.answer)
        read = {"P_S": (about,), "P_QS": (query, about)}.get(role, (query,))
        values = {"query": query, "sticker": about, "prediction": about, "text": "\n\n".join(read)}
        text = _SLOT.sub(lambda slot: values[slot[1]], template)
        return [{"role": "user", "content": text}] if self.chat else text


DEFAULT_PROMPTS = SIFTPrompts()
