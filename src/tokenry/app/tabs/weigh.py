"""*Weigh*: how much every token of a text surprises a model, and what an answer attends to."""

from tokenry.app.fields import Model, Passage, QuestionAndAnswer, Slider, SomeOf
from tokenry.app.forms import Form, Tab

TEXT = (
    "The city of Oslo lies at the head of a fjord. In winter the days are short, and people ski after work. "
    "The library on the harbour is open until ten; students read there, and tourists look at the ships."
)
QUESTION = "Ada has 3 boxes with 12 pencils each and gives 7 pencils away. How many are left?"
ANSWER = "Three boxes of 12 pencils are 36 pencils. 36 - 7 = 29. The answer is 29."
LOSSES = (("NLL, how surprising the token is", "nll"), ("entropy, how unsure the model is", "entropy"))
ATTENTION = (("attention paid to the question", "prompt_attention"),)
MODEL = Model("model", "Model", "", more=False)
LENGTH = Slider("max_length", "Most tokens", "", more=True, low=16, high=2048, step=16, value=512)

TAB = Tab(
    "Weigh",
    "Which tokens surprise a model, and where is it unsure?",
    (
        Form(
            "score",
            (
                Passage("source", "Text", "", value=TEXT),
                SomeOf("signals", "Signals", "", choices=LOSSES, value=("nll", "entropy")),
                MODEL,
                LENGTH,
            ),
            title="A text",
            button="Weigh",
        ),
        Form(
            "score",
            (
                QuestionAndAnswer("source", "Answer", "", value=ANSWER, question=QUESTION, lines=5),
                SomeOf(
                    "signals",
                    "Signals",
                    "",
                    choices=(*LOSSES, *ATTENTION),
                    value=("nll", "entropy", "prompt_attention"),
                ),
                MODEL,
                LENGTH,
            ),
            title="An answer to a question",
            button="Weigh",
        ),
    ),
)
