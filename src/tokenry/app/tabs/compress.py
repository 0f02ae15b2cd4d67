"""*Compress*: a prompt with the words that are kept, an image with the patches that are merged."""

from tokenry.app.fields import Line, Model, OneOf, Passage, Slider, SomeOf, Switch, Upload
from tokenry.app.forms import Form, Tab
from tokenry.app.uploads import Kind

PROMPT = """The meeting was held on Tuesday in the large room on the second floor, where it is always rather cold at this time of the year.
After a long and friendly discussion the committee decided to move the release to 14 March, because the tests on two of the machines had not
been finished. Ada will write to the customers, and Grace, as usual, looks after the documentation."""
REDUCTIONS = ("pitome", "tome", "zero-tprune", "norm", "random")

TAB = Tab(
    "Compress",
    "How much of a prompt, or of an image, does a model need?",
    (
        Form(
            "compress prompt",
            (
                Passage("text", "Prompt", "", value=PROMPT),
                Line("question", "Question after it", "", value="When is the release?"),
                Slider("keep", "Share of the words to keep", "", low=0.1, high=1.0, step=0.05, value=0.6),
                Model("target", "Model", ""),
                Switch("curve", "Also compare with random words at several lengths", "", value=False),
                SomeOf(
                    "protect",
                    "Never dropped",
                    "",
                    more=True,
                    choices=("numbers", "quotes", "code"),
                    value=("numbers",),
                ),
            ),
            title="A prompt",
            button="Shorten",
        ),
        Form(
            "compress vision",
            (
                Upload(
                    "images",
                    "Images",
                    "PNG, JPEG or WebP",
                    kind=Kind.IMAGE,
                    many=True,
                    as_folder=True,
                    required=True,
                ),
                Model(
                    "model",
                    "Image model",
                    "A folder, or a hub name: ViT, DeiT, DINOv2, CLIP or SigLIP.",
                    offered=False,
                ),
                OneOf("methods", "Tokens are merged or dropped by", "", choices=REDUCTIONS, value="pitome"),
                Slider("ratio", "Share that each layer keeps", "", low=0.5, high=1.0, step=0.025, value=0.9),
                Switch("every_layer", "Draw every layer", "", value=True),
            ),
            title="Images",
            button="Compress",
            fixed={"rounds": 2},
        ),
    ),
)
