"""Another tokenizer for a model, by a trained hypernetwork."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenry.core.io.files import require_folder_name, require_new
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import Block, Table, Text
from tokenry.report.result import Result
from tokenry.verbs._hardware import AS_STORED, StoredHardware
from tokenry.verbs._models import model_title
from tokenry.verbs.tokenizer._new_tokenizer import NO_TEXTS, MeasuredTexts, bits_per_byte, text_back

_COUNTS = ("tokens", "special", "shared", "composed", "never_written", "truncated", "bytes_with_a_token")


@dataclass(frozen=True)
class Plan:
    """Replace a model's tokenizer in one pass, and report what the hypernetwork could know of each token.

    Attributes:
        model: the hypernetwork's model, or a fine-tuned variant of it.
        hypernet: folder of the hypernetwork.
        new_tokenizer: folder, tokenizer.json or hub name of the new tokenizer.
        output: a new folder for the model, its tokenizer, result.json and report.html.
        base: read the rows of this model: the base of a fine-tuned variant.
        language: number of the language, for a hypernetwork that tells languages apart.
    """

    model: str = argument()
    hypernet: Path = argument()
    new_tokenizer: str = argument()
    output: Path = option(metavar="FOLDER")
    base: str | None = None
    language: int | None = None
    measured: MeasuredTexts = NO_TEXTS
    hardware: StoredHardware = AS_STORED

    def __post_init__(self) -> None:
        require_folder_name(self.output, "the model")


def run(plan: Plan, progress: Progress) -> Result:
    """Predict the rows of the new tokenizer, measure, and save to the new folder."""
    from tokenry.core.text.bits_per_byte import first_token, text_loss
    from tokenry.models import load_tokenizer
    from tokenry.tokenization.probes import require_encodable, texts_back
    from tokenry.tokenization.special_roles import take_roles
    from tokenry.tokenization.tokenizer_files import load_fast_tokenizer
    from tokenry.tokenization.transfer.model_rows import set_special_ids, write_rows
    from tokenry.tokenization.transfer.zett.hypernetwork import EmbeddingHyperNetwork
    from tokenry.tokenization.transfer.zett.transfer import predict_vocabulary, save_transfer

    require_new(plan.output)
    texts = plan.measured.read()
    network = EmbeddingHyperNetwork.load(plan.hypernet)
    progress("loading", 0.0)
    old, new = load_tokenizer(plan.model), load_fast_tokenizer(plan.new_tokenizer)
    take_roles(new, old)
    for tokenizer in (old, new) if texts else ():
        first_token(tokenizer)
    require_encodable({"old": old, "new": new}, texts)
    model = plan.hardware.load(plan.model)
    base = None if plan.base is None else plan.hardware.load(plan.base)
    before = text_loss(model, old, texts).as_json() if texts else None
    progress("predicting rows", 0.4)
    predicted = predict_vocabulary(model, network, new, base=base, language=plan.language)
    write_rows(model, predicted.rows)
    set_special_ids(model, new)
    progress("measuring and saving", 0.7)
    after = text_loss(model, new, texts).as_json() if texts else None
    back, notes = texts_back({"old": old, "new": new}, texts or None)
    measured = {
        "bits_per_byte": {"before": before, "after": after},
        "text_back": {which: found.as_json() for which, found in back.items()},
        "notes": notes,
    }
    save_transfer(model, new, predicted.report, plan.output, measured)
    data = {
        "kind": "zett transfer",
        "model": plan.model,
        "new_tokenizer": plan.new_tokenizer,
        **predicted.report.as_json(),
        **measured,
        "settings": plan_settings(plan),
    }
    return Result(_title(data), data, lay_out(data))


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out what the hypernetwork could know of the tokens, how far it is from known rows, and what texts cost."""
    rows = [
        *((name.replace("_", " "), f"{data[name]:,}") for name in _COUNTS),
        ("old pieces per token", f"{data['mean_pieces']:.2f}"),
        *text_back(data["text_back"]),
    ]
    if data["median_cosine_error_of_shared"] is not None:
        rows += [
            ("1 − cosine to the old row, median of shared", f"{data['median_cosine_error_of_shared']:.3f}"),
            ("furthest from it", ", ".join(map(repr, list(data["furthest_shared_tokens"])[:6]))),
        ]
    return [
        *(Text(note, "warning") for note in data["notes"]),
        Table(_title(data), ("what", "found"), rows),
        *bits_per_byte(data["bits_per_byte"]),
    ]


def _title(data: Mapping[str, Any]) -> str:
    return f"{model_title(data['model'])} with the tokenizer of {data['new_tokenizer']}"
