"""`tokenry bytes next|score|generate|self-test`: any tokenized language model as an exact model of bytes."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tokenry.cli.console import Json, note, print_json, print_table

HELP = "Ask a language model about bytes: exact probabilities, whatever its tokenizer, for prompts that end anywhere."

Text = Annotated[str | None, typer.Argument(help="The text; or give it with --hex or --file.")]
Hex = Annotated[
    str | None,
    typer.Option("--hex", help="The text as bytes, such as 636166C3: it may end inside a character."),
]
File = Annotated[Path | None, typer.Option(help="A file with the text.")]
Model = Annotated[str, typer.Option(help="`embedded`, a folder, or a hub name.")]
Models = Annotated[
    list[str], typer.Option("--model", help="As often as there are models: several are an ensemble.")
]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16 (default: as stored).")]
Invalid = Annotated[
    str,
    typer.Option(
        help="Probability of tokens that the tokenizer never writes: truncate, renormalize, or all."
    ),
]
Validate = Annotated[str, typer.Option(help="How they are found: pairwise, reencode, or none.")]
Output = Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")]


def next_byte(
    text: Text = None,
    hex: Hex = None,
    file: File = None,
    model: Models = ["embedded"],  # noqa: B006
    most: Annotated[int, typer.Option(min=1, help="So many of the most probable bytes.")] = 10,
    dtype: Dtype = None,
    invalid: Invalid = "truncate",
    validate: Validate = "pairwise",
    output: Output = None,
    json: Json = False,
) -> None:
    """Show the most probable next bytes after a text that may end anywhere, beside the naive and the healed answer."""
    from tokenry.core.files import require_output_file
    from tokenry.runs.byte_probing import next_bytes, read_prompt

    require_output_file(output)
    prompt = read_prompt(text, hex, file)
    result = next_bytes(model, prompt, most, dtype, invalid=invalid, validate=validate)
    if _delivered(result, output, json):
        return
    columns = tuple(result["next"][0])
    print_table(
        f"next byte after {result['prompt']!r} ({', '.join(map(str, result['covers']))} covers)",
        columns,
        ([each["byte"], *(f"{each[column]:.4f}" for column in columns[1:])] for each in result["next"]),
    )


def score(
    text: Text = None,
    hex: Hex = None,
    file: File = None,
    model: Model = "embedded",
    per: Annotated[str, typer.Option(help="byte or character.")] = "character",
    dtype: Dtype = None,
    invalid: Invalid = "truncate",
    validate: Validate = "pairwise",
    output: Output = None,
    json: Json = False,
) -> None:
    """Show how surprising every byte or character of a text is, in bits: exactly, and as its tokens spread it."""
    from tokenry.core.files import require_output_file
    from tokenry.runs.byte_probing import read_prompt, score_bytes

    require_output_file(output)
    result = score_bytes(model, read_prompt(text, hex, file), per, dtype, invalid=invalid, validate=validate)
    if _delivered(result, output, json):
        return
    exactly = "exact" if result["exact"] else "not exact"
    print_table(
        f"{result['bits_per_byte']:.4f} bits per byte ({exactly}), {result['bits_per_byte_of_tokens']:.4f} by tokens",
        (per, "bits", "bits, tokens spread"),
        (
            [repr(each["text"]), f"{each['bits']:.3f}", f"{each['bits_of_tokens']:.3f}"]
            for each in result["units"]
        ),
    )


def generate(
    text: Text = None,
    hex: Hex = None,
    file: File = None,
    model: Models = ["embedded"],  # noqa: B006
    samples: Annotated[int, typer.Option(help="How many texts.")] = 1,
    max_bytes: Annotated[int, typer.Option(min=1, help="Most bytes of each.")] = 100,
    temperature: Annotated[float, typer.Option(help="0 for the most probable byte.")] = 0.6,
    top_p: Annotated[float, typer.Option(help="Share of the probability to sample from, in (0, 1].")] = 1.0,
    stop: Annotated[list[str], typer.Option(help="End at this string; as often as needed.")] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(min=0, help="Seed of the samples.")] = 0,
    dtype: Dtype = None,
    invalid: Invalid = "truncate",
    validate: Validate = "pairwise",
    output: Output = None,
    json: Json = False,
) -> None:
    """Let a model, or an ensemble of models with different tokenizers, go on from a text that may end anywhere."""
    from tokenry.core.files import require_output_file
    from tokenry.runs.byte_probing import read_prompt, sample_bytes

    require_output_file(output)
    prompt = read_prompt(text, hex, file)
    result = sample_bytes(
        model,
        prompt,
        samples,
        max_bytes,
        temperature,
        top_p,
        stop,
        seed,
        dtype,
        invalid=invalid,
        validate=validate,
    )
    if _delivered(result, output, json):
        return
    print_table(
        f"after {result['prompt']!r}",
        ("text", "log-probability, nats", "ended by"),
        ([each["text"], f"{each['log_prob']:.2f}", each["why"]] for each in result["samples"]),
    )


def self_test(
    tokenizer: Annotated[str, typer.Argument(help="`embedded`, a folder, or a hub name.")] = "embedded",
    output: Output = None,
    json: Json = False,
) -> None:
    """Test the byte map of a tokenizer: name the tokens that cannot be represented, and the bytes that cannot be written."""
    from tokenry.core.files import require_output_file
    from tokenry.runs.byte_probing import examine_byte_map

    require_output_file(output)
    result = examine_byte_map(tokenizer)
    delivered = _delivered(result, output, json)
    if not delivered:
        counted = ("misread", "missing_bytes", "same_bytes", "lossy_texts", "unlike")
        rows = [(name.replace("_", " "), str(len(result[name]))) for name in counted]
        rows += [
            (name.replace("_", " "), str(result[name]))
            for name in ("tokens", "special", "cut", "never_written")
        ]
        rows.append(("rewrites", ", ".join(result["rewrites"]) or "nothing"))
        rows.append(("read as a space", " ".join(result["unkept"]) or "nothing else"))
        rows.append(("exact probabilities", result["no_cover"] or "yes"))
        print_table(
            f"{'sound' if result['is_sound'] else 'NOT sound'}: byte map of {tokenizer}",
            ("what", "found"),
            rows,
        )
        if result["misread"]:
            print_table(
                "tokens that cannot be represented",
                ("id", "token", "why"),
                ([str(each["id"]), each["token"], each["why"]] for each in result["misread"][:50]),
            )
        if result["unlike"]:
            print_table(
                "texts that cannot be represented",
                ("text", "why"),
                ([repr(each["text"]), each["why"]] for each in result["unlike"][:50]),
            )
    if not result["is_sound"]:
        raise typer.Exit(1)


def _delivered(result: dict[str, Any], output: Path | None, json: bool) -> bool:
    """Write the result to a file and as JSON where that is wanted; tell whether it is on stdout already."""
    from tokenry.core.files import write_json

    if output:
        write_json(output, result)
        note(f"written: {output}")
    if json:
        print_json(result)
    return json
