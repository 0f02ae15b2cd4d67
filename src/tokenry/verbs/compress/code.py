"""The tokens of identifiers made one inside an encoder of code: what that saves on a user's own sources, and how far the states move."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import UserError, require_at_least
from tokenry.core.io.files import without_nan
from tokenry.core.io.progress import Progress, part
from tokenry.core.io.reading import read_text
from tokenry.core.plans import argument, option, plan_settings
from tokenry.core.stats import Estimate, estimate_of_mean
from tokenry.report.blocks import (
    Block,
    Cell,
    Column,
    Figure,
    Findings,
    Piece,
    Segmentation,
    Series,
    Table,
    Text,
)
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._estimates import stored_estimate
from tokenry.verbs._hardware import Hardware

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tokenry.compression.text import CodeMergeCollator, GroupedCode, SubwordMerging

SUFFIXES = {"python": (".py",), "java": (".java",), "c": (".c", ".h")}
POLICIES = ("identifier", "identifier+literal", "leaf")
SHOWN_TOKENS = 160


@dataclass(frozen=True)
class Plan:
    """Merge the tokens of each identifier inside an encoder of code, and see on your own sources what it saves.

    Attributes:
        code: a source file, or a folder of them; folders inside it count too.
        model: a folder or hub name of an encoder, such as microsoft/codebert-base or Salesforce/codet5-base.
        language: language of the sources; by default that of the most files, by their suffix.
        policy: units of which one token is made, identifiers, numbers and strings too, or every leaf of the syntax tree.
        after: number of layers before the merging; by default half of them.
        backend: finder of the units, tree-sitter or the lexer; auto takes the lexer where there is no grammar.
        max_length: maximum number of tokens of a source, longer ones are cut; by default 512, or what the model reads.
        limit: maximum number of sources, taken at equal distances.
        batch_size: sources per forward pass.
        rounds: rounds of the timing.
        output: folder for result.json and report.html, or a .json or .html file.
    """

    code: Path = argument()
    model: str = option(metavar="MODEL")
    language: str | None = None
    policy: Literal["identifier", "identifier+literal", "leaf"] = "identifier"
    after: int | None = None
    backend: Literal["auto", "tree-sitter", "lexer"] = "auto"
    max_length: int | None = None
    limit: int = 64
    batch_size: int = 8
    rounds: int = 5
    hardware: Hardware = Hardware()
    output: Path | None = Path("runs/compress-code")

    def __post_init__(self) -> None:
        require_at_least(1, max_length=self.max_length, limit=self.limit, batch_size=self.batch_size)
        require_at_least(2, rounds=self.rounds)
        require_at_least(0, after=self.after)


def run(plan: Plan, progress: Progress) -> Result:
    """Read the sources, count tokens and FLOPs, and run the encoder with merging and without."""
    import warnings

    import torch

    from tokenry.compression.text import SubwordMerging
    from tokenry.core.tensors.gate import position_limit
    from tokenry.core.tensors.patching import find_encoder
    from tokenry.models import preferred_dtype
    from tokenry.models.text_encoder import load_text_encoder
    from tokenry.verbs._environment import environment

    files, language = find_sources(plan.code, plan.language, plan.limit)
    sources = [read_text(file, kind="UTF-8 source code") for file in files]
    device = plan.hardware.place()
    progress("reading the model", 0.0)
    with torch.no_grad(), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        model, tokenizer = load_text_encoder(plan.model, plan.hardware.dtype or preferred_dtype(device))
        model.to(device)
        merging = SubwordMerging(plan.after, policy=plan.policy)
        after = merging.place(len(find_encoder(model).layers))
        max_length = plan.max_length or int(min(512, position_limit(model)))
        options = {"backend": plan.backend, "max_length": max_length, "model": model}
        collator = merging.collator(tokenizer, language, **options)
        others = POLICIES if collator.backend == "tree-sitter" else POLICIES[:2]
        counted = {
            policy: SubwordMerging(policy=policy)
            .collator(tokenizer, language, **options | {"backend": collator.backend})
            .read(sources)
            for policy in others
        }
        notes = [str(warning.message) for warning in said if warning.category is UserWarning]
        tokens, savings = account(model, counted)
        measured = measure(plan, model, merging, collator, sources, part(progress, 0.2, 1.0))
    if cut := sum(len(code) == max_length for code in counted[plan.policy]):
        notes.append(
            f"{plural(cut, 'source')} of {len(sources)} fill all {max_length} tokens, and may be cut."
        )
    data = without_nan(
        {
            "kind": "compress code",
            "model": plan.model,
            "code": str(plan.code),
            "language": language,
            "sources": len(sources),
            "backend": collator.backend,
            "policy": plan.policy,
            "after": after,
            "layers": len(savings[plan.policy]) - 1,
            "tokens": tokens,
            "savings": savings,
            **measured,
            "text": shown_tokens(files[0].name, sources[0], counted[plan.policy][0], collator),
            "notes": notes,
            "settings": plan_settings(plan)
            | {
                "language": language,
                "max_length": max_length,
                "device": str(device),
                "dtype": str(model.dtype).removeprefix("torch."),
            },
            "environment": environment(device),
        }
    )
    return Result(f"{plan.model} on {plan.code}", data, lay_out(data))


# --- measuring -----------------------------------------------------------------------------------------------------------------------


def account(
    model: "PreTrainedModel", counted: Mapping[str, Sequence["GroupedCode"]]
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Tokens of a source under each policy, and the share of the FLOPs saved by merging after each layer: means over the sources."""
    from tokenry.compression import layer_costs
    from tokenry.compression.text import flops_saved
    from tokenry.core.tensors.patching import find_encoder

    costs = layer_costs(find_encoder(model))
    first = next(iter(counted.values()))
    tokens = {"unmerged": asdict(estimate_of_mean([len(code) for code in first]))} | {
        policy: asdict(estimate_of_mean([code.merged_length for code in read]))
        for policy, read in counted.items()
    }
    savings = {
        policy: [
            estimate_of_mean([flops_saved(costs, after, code) for code in read]).value
            for after in range(len(costs) + 1)
        ]
        for policy, read in counted.items()
    }
    return tokens, savings


def measure(
    plan: Plan,
    model: "PreTrainedModel",
    merging: "SubwordMerging",
    collator: "CodeMergeCollator",
    sources: Sequence[str],
    progress: Progress,
) -> dict[str, Any]:
    """Time by turns, and the cosine of the mean state of each source with merging and without."""
    import torch

    from tokenry.compression import apply_token_reduction
    from tokenry.models.text_classifier import length_sorted
    from tokenry.verbs.compress._vision.measure import speedup, take_turns

    order = length_sorted(collator.merged_lengths(sources), plan.batch_size)
    merged = [
        {
            name: value.to(model.device)
            for name, value in collator([sources[place] for place in batch]).items()
        }
        for batch in order
    ]
    plain = [{name: value for name, value in batch.items() if name != "group_ids"} for batch in merged]
    running = plain

    @contextmanager
    def patched(**options: Any) -> Iterator[None]:
        nonlocal running
        with apply_token_reduction(model, merging, **options):
            running = merged
            yield
        running = plain

    def means() -> list[torch.Tensor]:
        states = [(model(**batch).last_hidden_state, batch["attention_mask"][..., None]) for batch in running]
        return [(state.float() * mask).sum(dim=1) / mask.sum(dim=1) for state, mask in states]

    before = torch.cat(means())
    with patched(restore_length=True):
        after = torch.cat(means())
    taken = take_turns(
        lambda: [model(**batch) for batch in running] and None,
        {"unmerged": nullcontext, "merged": patched},
        plan.rounds,
        lambda share: progress("timing by turns", share),
    )
    wall, cpu = speedup(taken["unmerged"], taken["merged"])
    cosine = torch.nn.functional.cosine_similarity(before, after).cpu()
    return {
        "cosine": asdict(estimate_of_mean(cosine)),
        "speedup": asdict(wall),
        "cpu_speedup": cpu,
    }


def shown_tokens(
    name: str, source: str, code: "GroupedCode", collator: "CodeMergeCollator"
) -> dict[str, Any]:
    """The beginning of a source as tokens and as groups."""
    ids = code.input_ids[:SHOWN_TOKENS].tolist()
    spans = collator.tokenizer(
        source, return_offsets_mapping=True, truncation=True, max_length=collator.max_length
    )
    tokens, drawn = [], 0
    for token, group, (start, end) in zip(
        ids, code.group_ids.tolist(), spans["offset_mapping"], strict=False
    ):
        if start < end:  # the tokens of one character have one span: its text stands with the first
            tokens.append({"text": source[max(start, drawn) : end], "id": token, "group": group})
            drawn = max(end, drawn)
    return {"name": name, "tokens": tokens}


# --- sources -------------------------------------------------------------------------------------------------------------------------


def find_sources(code: Path, language: str | None, limit: int) -> tuple[list[Path], str]:
    """The files to read, at equal distances, and their language."""
    if not code.exists():
        raise UserError(f"{code} does not exist: give a source file, or a folder of them.")
    files = [code] if code.is_file() else sorted(path for path in code.rglob("*") if path.is_file())
    of = {suffix: name for name, suffixes in SUFFIXES.items() for suffix in suffixes}
    if language is None:
        found = Counter(of[file.suffix] for file in files if file.suffix in of and file.stat().st_size)
        if not found:
            raise UserError(
                f"{code} has no source with a known suffix ({', '.join(of)}): name the language with --language."
            )
        language = found.most_common(1)[0][0]
    suffixes = SUFFIXES.get(language.lower())
    chosen = [
        file
        for file in files
        if file.stat().st_size and (code.is_file() or suffixes is None or file.suffix in suffixes)
    ]
    if not chosen:
        raise UserError(f"{code} has no source in {language} that is not empty.")
    number = min(limit, len(chosen))
    return [chosen[place * len(chosen) // number] for place in range(number)], language


# --- layout --------------------------------------------------------------------------------------------------------------------------


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """Lay out what merging saves, at which layer, and how far the states move."""
    blocks: list[Block] = [Text(note, "warning") for note in data["notes"]]
    if data["backend"] == "lexer":
        blocks.append(
            Text(
                "The units were found by the lexer, which knows no syntax: names inside interpolated strings are missed."
            )
        )
    blocks.append(Findings(list(findings(data)), "what merging does here"))
    blocks += [_policies(data), _layers(data), _picture(data)]
    return [*blocks, Text(_REST)]


_REST = (
    "Multiply-adds of the layers, a mean over the sources at their unpadded lengths. An encoder that was not trained with merging answers "
    "less well with it: fine-tune it with the merging in place (the reproduction code-merge does), and compare the accuracy with and without."
)


def findings(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What can be said in sentences."""
    tokens, policy = data["tokens"], data["policy"]
    before, after = tokens["unmerged"]["value"], tokens[policy]["value"]
    yield (
        "tokens",
        f"{before:,.0f} tokens of a source become {after:,.0f} from layer {data['after']} of {data['layers']} on "
        f"({1 - after / before:.1%} fewer; {policy}).",
    )
    speed = data["speedup"]
    yield (
        "cost",
        f"{data['savings'][policy][data['after']]:.1%} fewer FLOPs; {data['cpu_speedup']:.2f} times as fast in CPU time, "
        f"{speed['median']:.2f} in wall time ({speed['lower']:.2f} to {speed['upper']:.2f}).",
    )
    cosine = stored_estimate(data["cosine"])
    yield "states", f"the mean state of a source keeps a cosine of {cosine:.3f} to the one without merging."


def _policies(data: Mapping[str, Any]) -> Table:
    tokens, savings, after = data["tokens"], data["savings"], data["after"]
    rows: list[tuple[str, Estimate | Cell, float]] = [("unmerged", stored_estimate(tokens["unmerged"]), 0.0)]
    rows += [(policy, stored_estimate(tokens[policy]), savings[policy][after]) for policy in savings]
    return Table(
        f"What each policy saves, merged after layer {after}",
        ("policy", Column("tokens", "of a source", ".1f"), Column("FLOPs saved", "%")),
        rows,
    )


def _layers(data: Mapping[str, Any]) -> Figure:
    layers = list(range(data["layers"] + 1))
    series = [
        Series(policy, layers, [100 * share for share in shares])
        for policy, shares in data["savings"].items()
    ]
    most = {policy: f"{shares[0]:.1%}" for policy, shares in data["savings"].items()}
    summary = "; ".join(f"{policy}: from {share} after the embeddings to 0" for policy, share in most.items())
    return Figure(
        "FLOPs saved by the place of the merging",
        "lines",
        series,
        "layers before it",
        "FLOPs saved, %",
        summary,
    )


def _picture(data: Mapping[str, Any]) -> Segmentation:
    """Tokens beside groups; `other` marks what stands in one of them only."""
    tokens = data["text"]["tokens"]
    members = Counter(token["group"] for token in tokens)
    groups: dict[int, str] = {}
    for token in tokens:
        groups[token["group"]] = groups.get(token["group"], "") + token["text"]
    alone = [Piece(t["text"], t["id"], "same" if members[t["group"]] == 1 else "other") for t in tokens]
    merged = [
        Piece(text, group, "same" if members[group] == 1 else "other") for group, text in groups.items()
    ]
    return Segmentation(
        data["text"]["name"],
        "the beginning",
        [
            ("tokens", plural(len(alone), "token"), alone),
            ("groups", plural(len(merged), "token"), merged),
        ],
    )
