"""Detectors, texts and the words that stand above every verdict: what the verbs of this group share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError
from tokenry.core.io.reading import read_text
from tokenry.report.blocks import Block, Findings, Text
from tokenry.report.writing import plural
from tokenry.verbs._hardware import Hardware

if TYPE_CHECKING:
    from tokenry.data import CalibratedDetector, Calibration, Detector

LIMITS = (
    "A verdict compares a text with the human texts of the calibration; it is no evidence against a person. Do not accuse, grade, reject or "
    "dismiss anyone by it. It does not hold for texts of another kind, language, length or group of writers (non-native writers are wrongly "
    "accused most often), for texts that were edited or written together with a machine, and for models and attacks that nobody tried."
)


def load_detector(
    names: Sequence[str],
    classifier: bool,
    settings: Mapping[str, Any],
    hardware: Hardware,
    batch_size: int,
    scores: Sequence[str] = (),
) -> "Detector":
    """Load one or two language models, or an encoder that was fine-tuned."""
    if classifier:
        from tokenry.data import BertDetector
        from tokenry.models.text_classifier import load_text_classifier

        loaded = load_text_classifier(names[0], max_length=settings["max_tokens"])
        model = loaded.model.to(hardware.place())
        return BertDetector(model, loaded.tokenizer, batch_size=batch_size, name=names[0], **settings)
    from tokenry.data import ZeroShotDetector
    from tokenry.models import load_tokenizer
    from tokenry.models.text_model import LocalText

    models = [
        LocalText(hardware.load(name), load_tokenizer(name), batch_size=batch_size, name=name)
        for name in names
    ]
    return ZeroShotDetector(models[0], models[1] if len(models) > 1 else None, scores, **settings)


def calibrated(
    file: Path, scorer: str | None, reference: str | None, hardware: Hardware, batch_size: int
) -> "CalibratedDetector":
    """Load a calibration and the models that it was made with; other names where they are given."""
    from tokenry.data import CalibratedDetector, Calibration

    calibration = Calibration.load(file)
    names = [model.name for model in calibration.models]
    names[0] = scorer or names[0]
    if reference is not None:
        names[1:] = [reference]
    detector = load_detector(
        names,
        calibration.score == "classifier",
        calibration.settings,
        hardware,
        batch_size,
        (calibration.score,),
    )
    return CalibratedDetector(detector, calibration)


def read_documents(source: Path) -> list[dict[str, Any]]:
    """Read texts as rows with `text` and `name`: one text file, a folder of them, or rows of any kind."""
    from tokenry.core.chat.reading import read_rows

    source = source.expanduser()
    if source.suffix.lower() in ("", ".txt", ".md") and source.is_file():
        return [{"text": read_text(source), "name": source.name}]
    if source.is_dir() and (files := sorted(source.rglob("*.txt"))):
        return [{"text": read_text(file), "name": str(file.relative_to(source))} for file in files]
    rows = read_rows(str(source))
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("text"), str):
            raise UserError(f"{source}, row {number} has no text under `text`.")
    return [{"name": f"row {number}"} | row for number, row in enumerate(rows, start=1)]


def read_texts(source: Path) -> list[str]:
    """The texts alone."""
    return [row["text"] for row in read_documents(source)]


def described(calibration: "Calibration") -> dict[str, Any]:
    """The calibration as results hold it: what was measured, without the scores of every text."""
    above, bound = calibration.false_positives
    up_to = calibration.human_up_to
    return {
        "score": calibration.score,
        "models": [model.name for model in calibration.models],
        "settings": dict(calibration.settings),
        "fpr": calibration.fpr,
        "shortest": calibration.shortest,
        "human_texts": calibration.texts,
        "left_out": calibration.left_out,
        "false_positives": above,
        "false_positives_at_most": bound,
        "machine_texts": len(calibration.machine_scores),
        "found": calibration.found,
        "machine_above": calibration.machine_above,
        "human_up_to": up_to if up_to > float("-inf") else None,
    }


def preamble(calibration: Mapping[str, Any]) -> list[Block]:
    """What stands above every verdict: the measured rate, what is found, and what a verdict may not be used for."""
    texts, above, bound = (
        calibration[name] for name in ("human_texts", "false_positives", "false_positives_at_most")
    )
    rate = (
        f"{above} of {plural(texts, 'human text')} are called a machine's ({above / texts:.2%}); among new texts like these, at most "
        f"{bound:.2%} (97.5 % confidence; asked for: {calibration['fpr']:.2%})."
    )
    found = (
        "no machine texts were given, so nothing says how many are found: a verdict of human may be worth nothing."
        if calibration["found"] is None
        else f"{calibration['found']:.1%} of {plural(calibration['machine_texts'], 'machine text')} of the calibration."
    )
    blocks: list[Block] = [
        Findings([("Measured false-positive rate", rate), ("Found", found)]),
        Text(LIMITS, "warning"),
    ]
    if bound > 2 * calibration["fpr"]:
        few = f"{plural(texts, 'human text')} are few: with bad luck the rate is more than twice what was asked for. Calibrate on more."
        blocks.append(Text(few, "warning"))
    return blocks
