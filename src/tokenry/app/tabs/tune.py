"""*Tune*: a small run of fine-tuning on the tokens that matter, beside plain fine-tuning."""

from tokenry.app.fields import Line, Model, OneOf, Slider, Upload
from tokenry.app.forms import Form, Tab
from tokenry.app.uploads import Kind

WEIGHINGS = ("sstoken", "small-loss", "random", "dft", "full")

TAB = Tab(
    "Tune",
    "Does learning from the tokens that matter beat learning from all of them, on your data?",
    (
        Form(
            "tune",
            (
                Upload("data", "Data", "questions and answers; without a file, the demo", kind=Kind.ROWS),
                Model("model", "Model", ""),
                OneOf("weighing", "Tokens are chosen by", "", choices=WEIGHINGS, value="sstoken"),
                Slider("set_", "Steps", "", low=2, high=200, step=1, value=12, written="max_steps={}"),
                Slider("share", "Share of the tokens", "", low=0.1, high=1.0, step=0.05, value=0.6),
                Slider(
                    "max_length",
                    "Most tokens of a sample",
                    "",
                    more=True,
                    low=64,
                    high=2048,
                    step=64,
                    value=256,
                ),
                Slider("seed", "Seed", "", more=True, low=0, high=100, step=1, value=42),
                Line(
                    "set_",
                    "Training argument",
                    "An argument of TRL's SFTConfig, such as learning_rate=2e-4.",
                    more=True,
                ),
            ),
            button="Tune",
            fixed={"compare": "full"},
            resumes=True,
        ),
    ),
)
