"""`tokenry tokenizer train ALGORITHM TEXT…`: BPE, Unigram, SuperBPE or BoundlessBPE from text files."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from tokenry.cli.console import Json, note, print_json, print_table, progress


def train(
    algorithm: Annotated[
        Literal["bpe", "unigram", "superbpe", "boundless"],
        typer.Argument(help="superbpe and boundless make tokens that span words."),
    ],
    texts: Annotated[list[Path], typer.Argument(help="Text files in UTF-8, or folders of .txt files.")],
    vocab_size: Annotated[
        int, typer.Option(help="Special tokens and the 256 bytes included; a small text gives fewer.")
    ] = 32768,
    transition: Annotated[
        int | None, typer.Option(help="superbpe: vocabulary after its first stage (default: 80 %).")
    ] = None,
    max_words: Annotated[int, typer.Option(help="superbpe: most words of a token.")] = 4,
    tau: Annotated[
        float, typer.Option(help="boundless: delete a part when merges use up this share; above 1: never.")
    ] = 0.9,
    special: Annotated[
        list[str] | None, typer.Option(help="A special token; the first has id 0. Can be repeated.")
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="Regular expression that cuts a text into words (default: with \\p{M})."),
    ] = None,
    min_frequency: Annotated[
        int, typer.Option(min=0, help="Pairs seen less often are not merged (not for unigram).")
    ] = 0,
    whole_files: Annotated[bool, typer.Option("--whole-files", help="A text is a file, not a line.")] = False,
    held_out: Annotated[
        list[Path] | None, typer.Option(help="Text to count instead of the training text. Can be repeated.")
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the tokenizer.")] = Path("runs/tokenizer"),
    json: Json = False,
) -> None:
    """Train a byte-level tokenizer that gives every text and every byte back."""
    from tokenry.core.files import require_output_folder
    from tokenry.tokenization.tokenizer_files import TextLines, save_tokenizer, text_files
    from tokenry.tokenization.training.byte_level_training import PATTERN
    from tokenry.tokenization.training.train_any import TrainingPlan, measure_training, train_any

    require_output_folder(output)
    plan = TrainingPlan(
        algorithm=algorithm,
        vocab_size=vocab_size,
        pattern=pattern or PATTERN,
        special_tokens=tuple(special or ()),
        min_frequency=min_frequency,
        transition=transition,
        max_words=max_words,
        tau=tau,
    )
    read = TextLines(text_files(texts), whole_files)
    counted = TextLines(text_files(held_out), whole_files) if held_out else read
    with progress() as report:
        report(f"training {algorithm}", 0.0)
        tokenizer, seconds = train_any(plan, read)
        report("counting", 0.8)
        result = measure_training(tokenizer, counted)
        back = result.pop("text_back")
        report("saving", 0.95)
        file = save_tokenizer(tokenizer, output)
    result |= {
        "algorithm": algorithm,
        "asked_vocab_size": vocab_size,
        "seconds": seconds,
        "file": str(file),
        "counted": "held-out text" if held_out else "training text",
        "text_back": back.as_json(),
    }
    if json:
        print_json(result)
    else:
        print_table(
            f"{algorithm}: {result['vocab_size']:,} of {vocab_size:,} tokens in {seconds:.1f} s",
            ("counted", "texts", "bytes", "tokens", "bytes per token", "tokens that span words", "text back"),
            [
                (
                    result["counted"],
                    f"{result['texts']:,}",
                    f"{result['bytes']:,}",
                    f"{result['tokens']:,}",
                    f"{result['bytes_per_token']:.3f}",
                    f"{result['superwords']:,}",
                    back.cell,
                )
            ],
        )
    if not back.gives_back:
        note(f"note: {back.sentence('the tokenizer')}")
    if result["vocab_size"] < vocab_size:
        note(f"note: the text is too small for {vocab_size:,} tokens, so there are {result['vocab_size']:,}.")
    note(f"written: {file}")
