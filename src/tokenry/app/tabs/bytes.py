"""*Bytes*: what a model says about the bytes of a text, wherever the text ends."""

from tokenry.app.fields import Model, OneOf, Passage, Slider
from tokenry.app.forms import Form, Tab

MODELS = Model("models", "Models", "Several together are an ensemble.", many=True)

TAB = Tab(
    "Bytes",
    "What comes next, when a text may end in the middle of a word?",
    (
        Form(
            "bytes next",
            (
                Passage("file", "Text", "", value="The capital of Norway is Os", lines=4),
                MODELS,
                Slider("most", "Bytes to show", "", low=3, high=30, step=1, value=10),
            ),
            title="Next byte",
            button="Predict",
        ),
        Form(
            "bytes score",
            (
                Passage("file", "Text", "", value="The capital of Norway is Oslo.", lines=4),
                Model("model", "Model", ""),
                OneOf("per", "Unit", "", choices=("character", "byte"), value="character"),
            ),
            title="Surprise",
            button="Score",
        ),
        Form(
            "bytes generate",
            (
                Passage("file", "Text", "", value="The capital of Norway is Os", lines=4),
                MODELS,
                Slider("max_bytes", "Most bytes", "", low=10, high=300, step=10, value=40),
                Slider("temperature", "Temperature", "", low=0.0, high=1.5, step=0.05, value=0.6),
                Slider("seed", "Seed", "", more=True, low=0, high=100, step=1, value=0),
            ),
            title="Go on",
            button="Generate",
        ),
    ),
)
