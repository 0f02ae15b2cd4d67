r"""A backend that answers by role and stage, as the examples of the sheet are written down.

A query is `<name>`, its sticker of stage 2 is `[name 2]`, and an answer from both is `(name QS2) \boxed{…}`, so a prompt says what it is for.
"""

import re

from tokenry.decoding import SIFTPrompts
from tokenry.models import Generated
from tokenry.models.text_model import GREEDY

PROMPTS = SIFTPrompts("SG {query}", "FO {query} {sticker}", "IG {prediction}", "P {text}", chat=False)
_QUERY, _STICKER = re.compile(r"<(\w+)>"), re.compile(r"[\[(](\w+) (?:QS)?(\d+)[\])]")


class Scripted:
    """Answers with `scripts[name]["S1"]`, `["QS1"]`, …, `["Q"]`, in a box; None is a text without an answer.

    Args:
        scripts: by name of the query.
        said: what is written instead in some calls, by `name S1`, `name SG`, …; None is a call that fails.
    """

    name = "scripted"

    def __init__(self, scripts, said=()):
        self.scripts, self.said = scripts, dict(said)
        self.batches, self.texts = [], []

    def generate(self, prompts, sampling=GREEDY):
        self.batches.append([prompt.split()[0] for prompt in prompts])
        written = [self._written(prompt) for prompt in prompts for _ in range(sampling.samples)]
        self.texts += written
        return written

    def _written(self, prompt):
        role, sticker, query = prompt.split()[0], _STICKER.search(prompt), _QUERY.search(prompt)
        name, stage = sticker.groups() if sticker else (query[1], 0)
        call = role
        if role == "P":
            call = "QS" * bool(sticker and query) or "S" * bool(sticker) or "Q"
            call += str(stage or "")
        text = self._text(role, call, name, int(stage))
        text = self.said.get(f"{name} {call}", text)
        if text is None:
            return Generated("", None, 0, 0, "failed", f"{name} {call} was not written.")
        return Generated(text, None, len(prompt), len(text))

    def _text(self, role, call, name, stage):
        if role != "P":
            return f"[{name} {stage + (role != 'IG')}]"
        answer = self.scripts[name][call]
        return f"({name} {call}) no" if answer is None else f"({name} {call}) \\boxed{{{answer}}}"


def script(agreed=None, answer="7"):
    """Answers that are equal at one stage, and never if it is None; the plain answer is 9."""
    stages = {f"S{stage}": answer if stage == agreed else f"{stage}" for stage in range(1, 9)}
    return (
        stages
        | {f"QS{stage}": answer if stage == agreed else f"1{stage}" for stage in range(1, 9)}
        | {"Q": "9"}
    )
