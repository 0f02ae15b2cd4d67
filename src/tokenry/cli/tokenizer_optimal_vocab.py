"""`tokenry tokenizer optimal-vocab`: a vocabulary for each language, so that the same text costs the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

from tokenry.cli.console import Json, deliver, note, print_table, progress
from tokenry.cli.tokenizer_premiums import numbers


def optimal_vocab(
    vocab_sizes: Annotated[
        str, typer.Option(help="At least four sizes to measure, increasing.")
    ] = "320,384,448,512,640,768,896,1024",
    target: Annotated[
        float | None,
        typer.Option(
            help="Tokens that the text should cost in all languages (default: the median at --base-size)."
        ),
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(help="Instead of a target: share this sum of vocabularies as evenly as can be."),
    ] = None,
    base_size: Annotated[
        int | None,
        typer.Option(help="The vocabulary for all that is compared with (default: the middle one)."),
    ] = None,
    largest: Annotated[int | None, typer.Option(help="Largest vocabulary of one language.")] = None,
    train: Annotated[
        Path | None,
        typer.Option(
            help="Folder of training text, one LANGUAGE.txt each (default, with --parallel: the Universal Declaration of Human Rights)."
        ),
    ] = None,
    parallel: Annotated[
        Path | None, typer.Option(help="Folder of parallel text, one LANGUAGE.txt each, line by line.")
    ] = None,
    languages: Annotated[
        str | None, typer.Option(help="Those to measure: eng,deu_1996,hin (default: all there are).")
    ] = None,
    save_tokenizers: Annotated[
        Path | None, typer.Option(help="Save the tokenizers here, a folder per language.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Also write the result to this JSON file.")] = None,
    json: Json = False,
) -> None:
    """Fit tokens against vocabulary, choose a size for each language, train it, and count again."""
    from tokenry.core.files import require_output_file, require_output_folder
    from tokenry.tokenization.premiums.equal_cost import equal_cost
    from tokenry.tokenization.premiums.parallel_text import load_train_and_parallel
    from tokenry.tokenization.tokenizer_files import save_tokenizer

    require_output_file(output)
    require_output_folder(save_tokenizers)
    sizes = numbers(vocab_sizes, "--vocab-sizes")
    texts, evaluation = load_train_and_parallel(train, parallel, languages.split(",") if languages else None)
    with progress() as report:
        found = equal_cost(
            texts,
            evaluation,
            sizes,
            target=target,
            budget=budget,
            base_size=base_size,
            largest=largest,
            progress=report,
        )
    for language, tokenizer in found.tokenizers.items() if save_tokenizers else ():
        save_tokenizer(tokenizer, Path(str(save_tokenizers)) / language)
    result = {"kind": "optimal vocabulary", "budget": budget, **found.as_json()}
    if deliver(result, output, json):
        return
    print_table(
        f"target {found.target:,.1f} tokens, beside V = {found.base_size} for all",
        ("language", f"tokens at {found.base_size}", "own V", "tokens", "floor", "R²", "text back"),
        (
            (
                language,
                f"{found.fixed[language].sum():,}",
                f"{found.trained[language]:,}" + (" (out of reach)" if size is None else ""),
                f"{found.measured[language].sum():,}",
                f"{found.curves[language].c:,.1f}",
                f"{found.curves[language].r2:.4f}",
                "–" if (back := found.text_back.get(language)) is None else back.cell,
            )
            for language, size in sorted(found.sizes.items(), key=lambda item: -found.trained[item[0]])
        ),
    )
    print_table(
        "spread over the languages",
        ("vocabulary", "mean count", "s.d.", "dearest / cheapest"),
        (
            (
                {"fixed": f"V = {found.base_size} for all", "own": "own V"}[when],
                f"{figures['mean'].value:,.1f}",
                f"{figures['std'].value:,.1f} ({figures['std'].low:,.1f} to {figures['std'].high:,.1f})",
                f"{figures['max_min'].value:.2f} ({figures['max_min'].low:.2f} to {figures['max_min'].high:.2f})",
            )
            for when, figures in found.spread().items()
        ),
    )
    for language, back in found.text_back.items():
        if back is not None and not back.gives_back:
            note(f"note: {back.sentence(f'the tokenizer of {language}')}")
    for language in found.out_of_reach:
        note(
            f"note: {language} does not reach {found.target:,.1f} tokens with any vocabulary (its floor is {found.curves[language].c:,.1f})."
        )
