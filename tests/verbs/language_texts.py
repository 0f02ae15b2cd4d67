"""Folders of training and of parallel text in four languages."""

from tests.tokenization.premium_golden import golden

GOLDEN = golden("premiums")
LANGUAGES = ("eng", "deu_1996", "tur", "hin")


def write_texts(folder):
    """Write `train` and `parallel`, one file per language."""
    lines = min(len(GOLDEN["eval"][language]) for language in LANGUAGES)
    for name, content in (("train", GOLDEN["train"]), ("parallel", GOLDEN["eval"])):
        (folder / name).mkdir()
        for language in LANGUAGES:
            chosen = content[language][: lines if name == "parallel" else None]
            (folder / name / f"{language}.txt").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    return folder
