"""`tokenry tokenizer zett train|transfer`: a hypernetwork that gives a model any tokenizer, and the transfer itself."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tokenry.cli.console import Json, note, print_json, print_table, progress

HELP = "Give a model any tokenizer: train a hypernetwork once, then transfer in one pass."

# The shares of the paper's 200,000 steps.
_IDENTITY_SHARE, _WARMUP_SHARE = 0.05, 0.1


def train(
    model: Annotated[str, typer.Argument(help="`embedded`, a folder, or a hub name.")],
    texts: Annotated[list[Path], typer.Argument(help="Text files to train on.")],
    output: Annotated[Path, typer.Option(help="A new folder for the hypernetwork and its checkpoints.")],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    by_language: Annotated[
        bool, typer.Option("--by-language", help="Each file is a language, which the hypernetwork is told.")
    ] = False,
    residual: Annotated[
        bool,
        typer.Option(
            "--residual", help="Predict the difference to the mean of the pieces' rows; needs no warm-up."
        ),
    ] = False,
    steps: Annotated[int, typer.Option(help="In all.")] = 200_000,
    identity_steps: Annotated[
        int | None, typer.Option(help="Of the warm-up on single tokens (default: 5 % of the steps).")
    ] = None,
    warmup_steps: Annotated[
        int | None,
        typer.Option(
            help="Where the second rise of the learning rate ends (default: 5 % of the steps later)."
        ),
    ] = None,
    identity_learning_rate: Annotated[float, typer.Option(help="Of the warm-up stage.")] = 3e-4,
    learning_rate: Annotated[float, typer.Option(help="Of the main stage.")] = 6e-5,
    batch_size: Annotated[int, typer.Option(help="Texts per step.")] = 128,
    micro_batch_size: Annotated[int, typer.Option(help="Texts the model sees at once; 0 for all.")] = 32,
    block_size: Annotated[int, typer.Option(help="Tokens per text.")] = 128,
    vocabulary_size: Annotated[
        int, typer.Option(help="Of a drawn tokenizer, special tokens aside.")
    ] = 32_768,
    vocabulary_std: Annotated[float, typer.Option(help="Its standard deviation.")] = 0.0,
    predicted_tokens: Annotated[
        int, typer.Option(help="Rows predicted per step beside those of the texts; 0 for all.")
    ] = 0,
    lexical_weight: Annotated[float, typer.Option(help="Of the distance to known rows.")] = 0.5,
    layers: Annotated[int, typer.Option(help="Of the hypernetwork.")] = 3,
    hidden_size: Annotated[int, typer.Option(help="Of the hypernetwork; 0 for the model's width.")] = 0,
    heads: Annotated[int, typer.Option(help="Of the hypernetwork; 0 for one per 64.")] = 0,
    max_length: Annotated[int, typer.Option(help="Pieces of a token that it reads.")] = 7,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16 (default: as the weights are stored).")
    ] = None,
    bfloat16: Annotated[bool, typer.Option("--bfloat16", help="Train in mixed precision.")] = False,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    json: Json = False,
) -> None:
    """Train the hypernetwork of a model; every checkpoint can be resumed."""
    from tokenry.core.files import require_output_folder
    from tokenry.runs.hypernetwork import train_hypernetwork
    from tokenry.tokenization.zett.drawn_batches import DrawingConfig
    from tokenry.tokenization.zett.training import HyperNetworkTrainingConfig

    require_output_folder(output)
    single = 0 if residual else round(_IDENTITY_SHARE * steps)
    single = single if identity_steps is None else identity_steps
    rise = single + round((_WARMUP_SHARE - _IDENTITY_SHARE) * steps)
    config = HyperNetworkTrainingConfig(
        steps=steps,
        identity_steps=single,
        warmup_steps=rise if warmup_steps is None else warmup_steps,
        identity_learning_rate=identity_learning_rate,
        learning_rate=learning_rate,
        drawing=DrawingConfig(
            batch_size=batch_size,
            block_size=block_size,
            vocabulary_size=vocabulary_size,
            vocabulary_std=vocabulary_std,
            # The paper's bounds: 16,384 and 32,768 around a mean of 32,768.
            least_vocabulary=max(1, vocabulary_size // 2),
            most_vocabulary=vocabulary_size,
        ),
        micro_batch_size=micro_batch_size,
        predicted_tokens=predicted_tokens,
        lexical_weight=lexical_weight,
        bfloat16=bfloat16,
        seed=seed,
        save_every=save_every,
    )
    with progress() as report:
        result = train_hypernetwork(
            model,
            texts,
            output,
            report,
            config,
            by_language=by_language,
            hypernetwork={
                "residual": residual,
                "layers": layers,
                "hidden_size": hidden_size,
                "heads": heads,
                "max_length": max_length,
            },
            dtype=dtype,
            resume=resume,
        )
    for remark in result["notes"]:
        note(f"note: {remark}")
    note(f"written: {output}")
    if json:
        print_json(result)
        return
    rows = [
        ("texts", ", ".join(f"{name}: {count:,}" for name, count in result["texts"].items())),
        ("text back, model's tokenizer", result["text_back"]["summary"]),
        ("parameters", f"{result['parameters']:,}"),
        *(
            (f"loss, {stage} stage", f"{loss['first']:.3f} → {loss['last']:.3f}")
            for stage, loss in result["stages"].items()
        ),
    ]
    print_table(f"hypernetwork of {model}", ("", ""), rows)


def transfer(
    model: Annotated[str, typer.Argument(help="The hypernetwork's model, or a fine-tuned variant of it.")],
    hypernet: Annotated[Path, typer.Argument(help="Folder of the hypernetwork.")],
    new_tokenizer: Annotated[
        str, typer.Argument(help="Folder, tokenizer.json or hub name of the new tokenizer.")
    ],
    output: Annotated[Path, typer.Option(help="A new folder for model, tokenizer and report.")],
    base: Annotated[
        str | None, typer.Option(help="Read the rows of this model: the base of a fine-tuned variant.")
    ] = None,
    language: Annotated[
        int | None, typer.Option(help="Number of the language, for a hypernetwork that tells them apart.")
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(
            help="Measure bits per byte of this text file before and after; can be repeated.", metavar="FILE"
        ),
    ] = None,
    most_characters: Annotated[
        int, typer.Option(min=1, help="Of each text file, from its beginning.")
    ] = 20_000,
    dtype: Annotated[
        str | None, typer.Option(help="float32 or bfloat16 (default: as the weights are stored).")
    ] = None,
    json: Json = False,
) -> None:
    """Replace a model's tokenizer in one pass, and say what the hypernetwork could know of each token."""
    from tokenry.runs.hypernetwork import transfer_model

    with progress() as report:
        result = transfer_model(
            model,
            hypernet,
            new_tokenizer,
            output,
            report,
            base=base,
            language=language,
            text_files=text or (),
            most_characters=most_characters,
            dtype=dtype,
        )
    for remark in result["notes"]:
        note(f"note: {remark}")
    note(f"written: {output}")
    if json:
        print_json(result)
        return
    print_table(f"{model} with the tokenizer of {new_tokenizer}", ("", ""), _rows(result))


def _rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [
        (name.replace("_", " "), f"{result[name]:,}")
        for name in (
            "tokens",
            "special",
            "shared",
            "composed",
            "never_written",
            "truncated",
            "bytes_with_a_token",
        )
    ]
    rows.append(("old pieces per token", f"{result['mean_pieces']:.2f}"))
    rows += [
        (f"text back, {which} tokenizer", found["summary"]) for which, found in result["text_back"].items()
    ]
    if result["median_cosine_error_of_shared"] is not None:
        rows += [
            ("1 − cosine to the old row, median of shared", f"{result['median_cosine_error_of_shared']:.3f}"),
            ("furthest from it", ", ".join(map(repr, list(result["furthest_shared_tokens"])[:6]))),
        ]
    for when, loss in result["bits_per_byte"].items():
        if loss:
            error = "" if loss["standard_error"] is None else f" ± {loss['standard_error']:.3f}"
            rows.append((f"bits per byte {when}", f"{loss['value']:.3f}{error} ({loss['tokens']:,} tokens)"))
    return rows
