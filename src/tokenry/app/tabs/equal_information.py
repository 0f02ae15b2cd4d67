"""*Equal information*: a text cut into windows of the same number of bits, and what every word costs."""

from tokenry.app.fields import Model, OneOf, Passage, Slider
from tokenry.app.forms import Form, Tab

TEXT = (
    "The value of an expression is the value of its last statement. If the expression is empty, the value is None.\n"
    "Oslo lies at the head of a fjord, and its library is open until ten. 3.14159 265358 979323"
)

TAB = Tab(
    "Equal information",
    "Where does a text say much, and where does it say little?",
    (
        Form(
            "tokenizer equal-info report",
            (
                Passage("file", "Text", "", value=TEXT),
                Slider("window_bits", "Bits of a window", "", low=15, high=32, step=1, value=16),
                Model(
                    "model",
                    "Model that predicts the text",
                    "The n-gram is counted on the help topics of Python; a language model runs in float64.",
                    before=("ngram",),
                ),
                Slider(
                    "order", "Bytes that the n-gram looks back", "", more=True, low=1, high=8, step=1, value=5
                ),
                Slider(
                    "most",
                    "Most bytes that are coded",
                    "",
                    more=True,
                    low=100,
                    high=20_000,
                    step=100,
                    value=1000,
                ),
                OneOf(
                    "token_bits", "Bits of a token", "", more=True, choices=(("8", 8), ("16", 16)), value=8
                ),
            ),
            button="Cut",
        ),
    ),
)
