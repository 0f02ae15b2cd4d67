"""*Select*: which documents predict how good models are, and by which words they are known."""

from tokenry.app.fields import Documents, LastRun, Scores, Slider
from tokenry.app.forms import Form, Tab

DOCUMENTS = """To bake bread, mix flour, water, salt and yeast, let the dough rise for two hours, and bake it until the crust is brown.

A prime number has exactly two divisors, one and itself. There are infinitely many: multiply any finite list of primes and add one.

Click here!!! Best prices best prices best prices buy now buy now limited offer click here.

The heart pumps blood through two circuits, one to the lungs and one to the rest of the body; valves keep it from flowing back.

lorem ipsum dolor sit amet sed do eiusmod tempor lorem ipsum dolor sit amet sed do eiusmod tempor

Water expands when it freezes, which is why ice floats and why pipes burst in winter."""

TAB = Tab(
    "Select",
    "Which of your documents predict how good a model is, and by which words are they known?",
    (
        Form(
            "select-data strength",
            (
                Documents(
                    "corpus", "Documents, with an empty line between them", "", value=DOCUMENTS, lines=12
                ),
                Scores(
                    "benchmarks",
                    "Models and their benchmark scores",
                    "NAME@LAYERS is a model of its first layers only.",
                    value="embedded@10, 0.30\nembedded@20, 0.40\nembedded, 0.61",
                ),
                Slider(
                    "window",
                    "Tokens that a token is predicted from",
                    "",
                    more=True,
                    low=64,
                    high=1900,
                    step=4,
                    value=256,
                ),
            ),
            title="Strength",
            button="Measure",
        ),
        Form(
            "select-data train",
            (
                LastRun(
                    "documents",
                    "The documents and their strength",
                    "Learns the words of the strongest and the weakest documents of the last run of *Strength*.",
                    verb="select-data strength",
                    file="strength.jsonl",
                ),
                Slider("held_out", "Share held out", "", low=0.0, high=0.5, step=0.05, value=0.0),
            ),
            title="Words",
            button="Learn the words",
            fixed={"scorer": "linear"},
        ),
    ),
)
