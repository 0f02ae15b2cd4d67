"""*Plan*: how large a model and how many tokens, from scaling laws with their intervals."""

from tokenry.app.fields import OneOf, Slider, Upload
from tokenry.app.forms import Form, Tab
from tokenry.app.uploads import Kind

SETS = (("RedPajama", "redpajama"), ("C4", "c4"), ("RefinedWeb", "refinedweb"))
RUNS = Upload("runs", "Runs of your own", "CSV: params, tokens, loss", kind=Kind.RUNS, more=True)
TRAINING_SET = OneOf("training_set", "Training set of the shipped runs", "", choices=SETS, value="redpajama")

TAB = Tab(
    "Plan",
    "How large a model, on how many tokens, for a budget?",
    (
        Form(
            "scaling plan",
            (
                Slider(
                    "budget",
                    "Budget: ten to this power FLOPs",
                    "",
                    low=18.0,
                    high=26.0,
                    step=0.1,
                    value=21.0,
                    power=True,
                ),
                Slider(
                    "served_tokens",
                    "Tokens in use: ten to this power",
                    "What the model will read and write in use; 0 for none.",
                    low=0.0,
                    high=15.0,
                    step=0.5,
                    value=0.0,
                    power=True,
                ),
                TRAINING_SET,
                Slider(
                    "draws",
                    "Draws behind the intervals",
                    None,
                    more=True,
                    low=0,
                    high=500,
                    step=50,
                    value=100,
                ),
                RUNS,
            ),
            title="For a budget",
            button="Plan",
            at_once=True,
        ),
        Form(
            "scaling predict",
            (
                Slider(
                    "params",
                    "Parameters: ten to this power",
                    "",
                    low=7.0,
                    high=12.0,
                    step=0.1,
                    value=9.8,
                    power=True,
                ),
                Slider("multipliers", "Tokens per parameter", "", low=5.0, high=600.0, step=5.0, value=20.0),
                TRAINING_SET,
                RUNS,
            ),
            title="For a run",
            button="Predict",
            at_once=True,
        ),
    ),
)
