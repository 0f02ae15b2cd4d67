"""A prompt shortened to its most important words, and what that cost beside random words."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokenry.core.errors import UserError, require_at_least, require_one_of, require_share
from tokenry.core.io.progress import Progress, part
from tokenry.core.plans import argument, option, plan_settings
from tokenry.report.blocks import (
    Block,
    Column,
    Figure,
    Findings,
    Heatmap,
    Section,
    Series,
    Table,
    Text,
    Token,
)
from tokenry.report.result import Result
from tokenry.report.writing import plural
from tokenry.verbs._environment import environment
from tokenry.verbs._estimates import stored_estimate
from tokenry.verbs._hardware import AS_STORED, StoredHardware
from tokenry.verbs._models import model_title

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from tokenry.compression.text import Compressed, KeepCurve, PromptScorer

SCORERS = (
    "self-information",
    "linear",
    "globenc",
    "decompx",
    "decompx-class-0",
    "token-classifier",
    "random",
)
_OF_TARGET = ("self-information", "linear", "random")
_MAPS, _ANSWER_TOKENS = 3, 16


@dataclass(frozen=True)
class Plan:
    """Shorten a prompt to a share of its words or to a number of the target model's tokens, and see what it cost beside random words.

    Attributes:
        text: the prompt, a text file, or rows (JSONL, JSON, CSV, Parquet) with `prompt`, and perhaps `question` and `answer`.
        tokens: maximum number of the target's tokens; the question comes on top.
        keep: share of the words instead; without either, 0.8.
        protect: what must stay: numbers, code, quotes, json-keys, or a regular expression; repeat for several.
        question: what follows the prompt and stays whole.
        answer: known answer by which shortened prompts are judged; by default what the target says after the whole prompt.
        target: model that the prompt is for: embedded, a folder, or a hub name.
        scorer: what says how much a word is worth: self-information, linear, globenc, decompx, decompx-class-0, token-classifier or random.
        model: model of the scorer: by default the target for self-information and linear; the others need one that was trained for it.
        per: whether the words of the whole text compete, or those of each sentence.
        curve: whether the target reads prompts of several lengths beside random ones.
        shares: shares of the words in that comparison.
        draws: random choices of words in it.
        seed: random seed.
        output: folder for result.json, report.html and the shortened text, or a .json or .html file; nothing is written without it.
    """

    text: str = argument()
    tokens: int | None = None
    keep: float | None = None
    protect: tuple[str, ...] = option((), metavar="NAME|REGEX")
    question: str = ""
    answer: str | None = None
    target: str = option("embedded", metavar="NAME")
    scorer: str = option(SCORERS[0], metavar="NAME")
    model: str | None = option(None, metavar="NAME")
    per: Literal["text", "sentence"] = "text"
    curve: bool = True
    shares: tuple[float, ...] = option((0.8, 0.6, 0.5, 0.3), metavar="0.8,0.5", commas=True)
    draws: int = 8
    seed: int = 0
    hardware: StoredHardware = AS_STORED
    output: Path | None = None

    def __post_init__(self) -> None:
        require_one_of(self.scorer, SCORERS, "scorer")
        if self.keep is not None and self.tokens is not None:
            raise UserError(f"give --keep {self.keep:g} or --tokens {self.tokens}, not both.")
        if self.model is None and self.scorer not in _OF_TARGET:
            what = (
                "a token classifier"
                if self.scorer == "token-classifier"
                else "a fine-tuned encoder classifier"
            )
            raise UserError(f"the scorer {self.scorer} needs {what}: name one with --model.")
        if not self.shares:
            raise UserError(
                "shares needs at least one share of the words, such as 0.5; --no-curve leaves the comparison out."
            )
        for share in self.shares:
            require_share(share, "shares")
        require_at_least(1, draws=self.draws)


def run(plan: Plan, progress: Progress) -> Result:
    """Shorten the prompts, and let the target read them."""
    from tokenry.compression.text import PromptCompressor, RandomScorer
    from tokenry.models import load_tokenizer

    rows = _prompts(plan)
    texts = [row["prompt"] for row in rows]
    options: dict[str, Any] = {
        "keep": plan.keep,
        "tokens": plan.tokens,
        "protect": plan.protect,
        "per": plan.per,
    }
    progress("loading the models", 0.0)
    tokenizer = load_tokenizer(plan.target)
    # What cannot be meant, and a budget below what must stay, are refused before models are loaded.
    PromptCompressor(RandomScorer(), tokenizer=tokenizer, min_keep=0, **options).compress_all(texts)
    reads = plan.curve or (plan.model is None and plan.scorer != "random")
    target = plan.hardware.load(plan.target) if reads else None
    compressor = PromptCompressor(_scorer(plan, target, tokenizer), tokenizer=tokenizer, **options)
    progress(f"scoring {plural(len(texts), 'prompt')}", 0.1)
    found = compressor.compress_all(texts)
    curve = None
    if plan.curve and target is not None and any(len(cut.scored) for cut in found):
        here = round(sum(int(cut.kept.sum()) for cut in found) / sum(len(cut.scored) for cut in found), 3)
        curve = _curve(plan, rows, here, compressor, target, tokenizer, part(progress, 0.3, 1.0))
    data = {
        "kind": "compress prompt",
        "scorer": plan.scorer,
        "target": plan.target,
        "prompts": [_prompt(row, cut) for row, cut in zip(rows, found, strict=True)],
        "curve": curve,
        "words": [_words(cut) for cut in found[:_MAPS]],
        "settings": plan_settings(plan),
        "environment": environment(plan.hardware.place()),
    }
    shortened = [
        {"prompt": cut.text, "question": row["question"]} for row, cut in zip(rows, found, strict=True)
    ]
    files = (
        {"prompt.txt": found[0].text}
        if len(found) == 1
        else {"prompts.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in shortened)}
    )
    title = f"{plural(len(texts), 'prompt')} for {model_title(plan.target)}, shortened"
    return Result(title, data, lay_out(data), files=files, only_saved=("words",))


def _prompts(plan: Plan) -> list[dict[str, Any]]:
    """Rows with `prompt`, `question` and `answer` (None where the target's own is asked for)."""
    from tokenry.core.chat.reading import read_rows
    from tokenry.verbs.score import source_text

    text = source_text(plan.text)
    read = [{"prompt": text}] if text is not None else read_rows(plan.text)
    rows = []
    for number, row in enumerate(read, start=1):
        if not isinstance(row.get("prompt"), str):
            raise UserError(f"{plan.text}, row {number} has no text under `prompt`.")
        rows.append({
            "prompt": row["prompt"],
            "question": row.get("question") or plan.question,
            "answer": row.get("answer") or plan.answer,
        })  # fmt: skip
    if not any(row["prompt"].strip() for row in rows):
        raise UserError("the prompt is empty: give its text, or a file that holds some.")
    return rows


def _scorer(plan: Plan, target: Any, tokenizer: "PreTrainedTokenizerBase") -> "PromptScorer":
    """The scorer with its model."""
    from tokenry.compression.text import (
        AttributionScorer,
        RandomScorer,
        SelfInformation,
        TokenClassifierScorer,
        decompx_scorer,
        globenc_scorer,
        released_decompx_scorer,
    )
    from tokenry.models import load_text_classifier, load_tokenizer

    if plan.scorer == "random":
        return RandomScorer(plan.seed)
    if plan.scorer in _OF_TARGET:
        model = target if plan.model is None else plan.hardware.load(plan.model)
        own = tokenizer if plan.model is None else load_tokenizer(plan.model)
        if plan.scorer == "linear":
            return AttributionScorer(model, own, "decompx:method=linear")
        return SelfInformation(model, own)
    assert plan.model is not None
    if plan.scorer == "token-classifier":
        return TokenClassifierScorer(
            _token_classifier(plan.model).to(plan.hardware.place()), load_tokenizer(plan.model)
        )
    classifier = load_text_classifier(plan.model, dtype=plan.hardware.dtype)
    make = {"globenc": globenc_scorer, "decompx": decompx_scorer, "decompx-class-0": released_decompx_scorer}
    return make[plan.scorer](classifier.model.to(plan.hardware.place()), classifier.tokenizer)


def _token_classifier(name: str) -> Any:
    from transformers import AutoModelForTokenClassification

    from tokenry.models.checkpoint import find_folder, require_config, require_weights
    from tokenry.models.loading import MODEL_PATTERNS, WEIGHTS, load_weights, require_complete

    folder = find_folder(name, MODEL_PATTERNS, None)
    require_config(name, folder)
    require_weights(name, folder, WEIGHTS)
    model, loading = load_weights(AutoModelForTokenClassification, name, folder, "a token classifier")
    require_complete(model, name, loading["missing_keys"])
    return model.eval()


def _curve(
    plan: Plan,
    rows: list[dict[str, Any]],
    here: float,
    compressor: Any,
    target: "nn.Module",
    tokenizer: "PreTrainedTokenizerBase",
    progress: Progress,
) -> dict[str, Any] | None:
    """What the target makes of prompts of several lengths, `here` among them; None where it says nothing by which to judge them."""
    from tokenry.compression.text import AnswerLikelihood, keep_curve
    from tokenry.models.text_model import LocalText, Sampling

    progress("answers to the whole prompts", 0.0)
    missing = [row for row in rows if row["answer"] is None]
    writer = LocalText(target, tokenizer)
    written = writer.generate(
        [row["prompt"] + row["question"] for row in missing],
        Sampling(max_new_tokens=_ANSWER_TOKENS, log_probs=False),
    )
    said = {id(row): answer.text for row, answer in zip(missing, written, strict=True)}
    judged = [(row, row["answer"] if row["answer"] is not None else said[id(row)]) for row in rows]
    judged = [(row, answer) for row, answer in judged if answer]
    if not judged:
        return None
    answers, questions = [answer for _, answer in judged], [row["question"] for row, _ in judged]
    judge = AnswerLikelihood(target, tokenizer, answers, questions)
    texts = [row["prompt"] for row, _ in judged]
    shares = tuple(sorted({*plan.shares, *([here] if here < 1 else [])}, reverse=True))
    curve = keep_curve(texts, compressor, judge, shares, plan.draws, plan.seed, progress)
    return {"answers": answers[:_MAPS], "prompts": len(judged), "here": here, **_measures(curve)}


def _measures(curve: "KeepCurve") -> dict[str, Any]:
    full = float(curve.full.mean())
    rows = []
    for number, share in enumerate(curve.shares):
        lost = {
            arm: full - float(curve.quality(arm)[number].mean()) for arm in ("scorer", "random", "bottom")
        }
        difference = asdict(curve.difference(share))
        rows.append(
            {"share": share, "tokens": float(curve.tokens[number]), "lost": lost, "difference": difference}
        )
    return {"full": full, "shares": rows, "area": asdict(curve.area), "verdict": curve.verdict}


def _prompt(row: Mapping[str, Any], cut: "Compressed") -> dict[str, Any]:
    return {
        "text": cut.text,
        "question": row["question"],
        "tokens": cut.tokens,
        "original_tokens": cut.original_tokens,
        "words": len(cut.scored),
        "kept_words": int(cut.kept.sum()),
        "protected_words": int(cut.protected.sum()),
    }


def _words(cut: "Compressed") -> list[dict[str, Any]]:
    """Every word with the white space before it, its score and its fate."""
    text, ends = cut.scored.text, [0, *(end for _, end in cut.scored.spans)]
    rows = zip(ends, cut.scored.spans, cut.scored.scores.tolist(), cut.kept.tolist(), strict=False)
    return [
        {"text": text[before:end], "score": score, "kept": kept} for before, (_, end), score, kept in rows
    ]


# --- layout --------------------------------------------------------------------------------------------------------------------------

_NAMES = {"scorer": "", "random": "random words", "bottom": "its lowest words"}
_ABOUT = (
    "What the target loses of the log-probability of the answer, in nats a token, when the prompt is shortened; 0 for the whole prompt. Random "
    "words and the scorer's lowest ones fill as many tokens."
)


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """The shortened prompt, what was dropped, and the comparison with random words."""
    prompts, curve = data["prompts"], data["curve"]
    left, whole = (sum(row[name] for row in prompts) for name in ("tokens", "original_tokens"))
    protected = sum(row["protected_words"] for row in prompts)
    short = f"{left:,} of {plural(whole, 'token')} are left" + (f" ({left / whole:.0%})" if whole else "")
    short += f", {plural(protected, 'word')} protected." if protected else "."
    against = [("Price", _price(data)), ("Against random words", _verdict(data))] if curve else []
    blocks: list[Block] = [Findings([("Length", short), *against])]
    if curve is None and data["settings"]["curve"]:
        blocks.append(
            Text(
                "The target says nothing after the whole prompt by which shorter ones could be judged: give --answer.",
                "warning",
            )
        )
    if len(prompts) == 1:
        blocks.append(Findings([("", prompts[0]["text"] or "(nothing is left)")], "Shortened prompt"))
    else:
        columns = ("prompt", "tokens", "of", "words kept", "of", "protected")
        names = ("tokens", "original_tokens", "kept_words", "words", "protected_words")
        rows = [(str(number), *(row[name] for name in names)) for number, row in enumerate(prompts, start=1)]
        blocks.append(Table("prompts", columns, rows, folded=len(rows) > 20))
    maps = [
        Heatmap(
            f"prompt {number}" if len(prompts) > 1 else "",
            [("", [_token(word) for word in words])],
            folded=True,
        )
        for number, words in enumerate(data["words"], start=1)
    ]
    blocks.append(Section("Kept and dropped", maps))
    return [*blocks, *(_comparison(data) if curve else [])]


def _token(word: Mapping[str, Any]) -> Token:
    return Token(word["text"], "kept" if word["kept"] else "dropped", {"worth": word["score"]})


def _price(data: Mapping[str, Any]) -> str:
    curve = data["curve"]
    row = next((row for row in curve["shares"] if row["share"] == curve["here"]), None)
    if row is None:
        return "nothing was dropped."
    lost = row["lost"]
    return (
        f"at this length the answer loses {lost['scorer']:.2f} nats a token of its log-probability, with random words {lost['random']:.2f}, "
        f"with the lowest {lost['bottom']:.2f}."
    )


def _verdict(data: Mapping[str, Any]) -> str:
    curve, name = data["curve"], data["scorer"]
    area = stored_estimate(curve["area"])
    units = "prompts" if curve["prompts"] >= 8 else "random choices of words"
    figures = f"{area:+.2f} nats per token of the answer, mean over the shares, n = {area.samples} {units}"
    return {
        "shown": f"{name} beats random words here: {figures}.",
        "opposite": f"{name} is worse than random words here: {figures}. Take another scorer.",
        "not shown": f"it is not shown that {name} beats random words here: {figures}.",
        "too few": f"too few random choices to tell whether {name} beats random words: {figures}.",
    }[curve["verdict"]]


def _comparison(data: Mapping[str, Any]) -> list[Block]:
    curve = data["curve"]
    rows, names = curve["shares"], {**_NAMES, "scorer": data["scorer"]}
    ordered = sorted(rows, key=lambda row: row["share"])
    at = [*(row["share"] for row in ordered), 1.0]
    series = [Series(name, at, [*(row["lost"][arm] for row in ordered), 0.0]) for arm, name in names.items()]
    answer = f"Judged by the answer {curve['answers'][0]!r}" + (
        ", and those to the others." if curve["prompts"] > 1 else "."
    )
    nats = [Column(name, "nats", ".2f") for name in names.values()]
    table = Table(
        "lost nats by the share of the words that is kept",
        (Column("kept", "%", ".0f"), Column("tokens", "", ".0f"), *nats, Column("gain over random", "nats", ".2f")),
        [
            (row["share"], row["tokens"], *(row["lost"][arm] for arm in names), stored_estimate(row["difference"]))
            for row in rows
        ],
    )  # fmt: skip
    chart = Figure(
        "what the target loses",
        "lines",
        series,
        x_label="share of the words that is kept",
        y_label="lost log-probability (nats a token)",
        summary=f"Lost log-probability of the answer by the share of the words that is kept, for {', '.join(names.values())}.",
    )
    return [Section("Beside random words", [Text(_ABOUT), Text(answer), table, chart])]
