"""*Theory*: how much of the modelling a tokenizer does, and what a causal mask forbids."""

from tokenry.app.fields import OneOf, Slider
from tokenry.app.forms import Form, Tab

TAB = Tab(
    "Theory",
    "How much of the modelling does a tokenizer do, and what can no causal model do?",
    (
        Form(
            "theory markov",
            (
                Slider("order", "Order of the source", "", low=1, high=8, step=1, value=2),
                Slider("switch", "Probability of a switch", "", low=0.01, high=0.99, step=0.01, value=0.1),
                OneOf(
                    "vocab_sizes",
                    "Sizes of the dictionaries",
                    "",
                    choices=(
                        ("to 32", (8, 16, 32)),
                        ("to 64", (8, 16, 32, 64)),
                        ("to 256", (8, 16, 32, 64, 128, 256)),
                    ),
                    value=(8, 16, 32),
                ),
                Slider(
                    "symbols",
                    "Symbols of the text",
                    "",
                    more=True,
                    low=2000,
                    high=100000,
                    step=1000,
                    value=6000,
                ),
                Slider("seed", "Seed", "", more=True, low=0, high=100, step=1, value=0),
            ),
            title="A source",
            button="Measure",
        ),
        Form(
            "theory permutation",
            (
                Slider("n", "Rows of the list", "", low=2, high=20, step=1, value=8),
                OneOf("layout", "Scratch rows", None, choices=("none", "suffix", "both"), value="suffix"),
                Slider("lists", "Lists", "", more=True, low=16, high=1024, step=16, value=128),
            ),
            title="A list in another order",
            button="Solve",
        ),
    ),
)
