"""*Cut*: one text as several tokenizers cut it."""

from tokenry.app.fields import Model, Passage, Upload
from tokenry.app.forms import Form, Tab
from tokenry.app.uploads import Kind

TEXT = """The library on the harbour is open until ten.
Στην προκυμαία φυσάει δυνατά. 3.14159 × 2 = 6.28318
def area(radius): return 3.14159 * radius ** 2"""

TAB = Tab(
    "Cut",
    "Where do tokenizers cut your text, and what does each cut cost?",
    (
        Form(
            "tokenizer compare",
            (
                Passage("texts", "Text", "", value=TEXT),
                Model("tokenizers", "Tokenizers", many=True),
                Upload(
                    "tokenizers",
                    "Tokenizer files",
                    "tokenizer.json, several at once",
                    kind=Kind.TOKENIZER,
                    many=True,
                ),
            ),
            button="Cut",
        ),
    ),
)
