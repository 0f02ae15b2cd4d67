"""*Explain*: which tokens of a text made the model's answer."""

from tokenry.app.fields import Line, Model, OneOf, Passage, SomeOf, Switch
from tokenry.app.forms import Form, Tab

METHODS = (
    ("ReAGent (replaces tokens by likely others)", "reagent:stop=ranking,max_steps=32"),
    ("input × gradient", "input-x-gradient"),
    ("attention of the last layer", "attention-last"),
    ("leave one out", "leave-one-out"),
)

TAB = Tab(
    "Explain",
    "Which tokens made the model's answer, and is the explanation faithful?",
    (
        Form(
            "explain",
            (
                Passage(
                    "text",
                    "Text",
                    "",
                    value="Anna moved from Paris to Norway last year. The capital of Norway is",
                    lines=5,
                ),
                Line(
                    "answer",
                    "Answer to explain",
                    "Left empty, the model's own next token.",
                    placeholder=" Oslo",
                ),
                SomeOf(
                    "methods",
                    "Methods",
                    "",
                    choices=METHODS,
                    value=("input-x-gradient", "attention-last", "leave-one-out"),
                ),
                Model("model", "Model", ""),
                Switch("chat", "Said by the user to a chat model", None, more=True),
                OneOf("per", "Unit", None, more=True, choices=("token", "word"), value="token"),
            ),
            button="Explain",
        ),
    ),
)
