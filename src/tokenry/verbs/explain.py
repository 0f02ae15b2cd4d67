"""Which tokens of a text made the model's answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from tokenry.core.errors import UserError
from tokenry.core.io.progress import Progress
from tokenry.core.plans import argument, option, plan_settings
from tokenry.core.stats import estimate_of_mean
from tokenry.report.blocks import Block, Column, Heatmap, Section, Table, Text, Token, Value
from tokenry.report.result import Result
from tokenry.verbs._environment import environment
from tokenry.verbs._estimates import estimate_row, stored_estimate
from tokenry.verbs._hardware import AS_STORED, StoredHardware
from tokenry.verbs._models import model_title, text_model
from tokenry.verbs._output import OptionalOutput

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from tokenry.attribution import Probability
    from tokenry.core.text.words import Words

METHODS = ("reagent:stop=ranking,max_steps=32", "input-x-gradient", "attention-last")
_BLACK_BOX = ("reagent:stop=ranking,max_steps=8", "leave-one-out:rounds=1")
_OF_A_CLASSIFIER = ("decompx", "decompx:method=linear", "globenc")
_RANDOM_DRAWS, _SHOWN = 16, 5
_METRICS = {
    "soft_ns": "Soft-NS",
    "soft_nc": "Soft-NC",
    "sufficiency": "sufficiency",
    "comprehensiveness": "comprehensiveness",
    "aopc": "AOPC",
}


@dataclass(frozen=True)
class Plan(OptionalOutput):
    """Show which tokens of a text made the model's next tokens, by several attribution methods, and how faithful each is beside random scores.

    Attributes:
        text: the text, or a text file.
        answer: the continuation that is explained, such as " Oslo", or the label of a classifier; by default the model's own.
        model: `embedded`, a folder or a hub name, also of an encoder classifier, or an endpoint with log-probabilities as URL#MODEL.
        tokenizer: for an endpoint, what cuts the text into the tokens that are scored.
        chat: the text is what the user says to the model, by its chat template.
        methods: attribution method; repeat for several. Options follow the name, as in reagent:probes=64. For an endpoint, by default
            those that only read p(answer); for a classifier, those that look into it.
        per: whether tokens are scored one by one, or the words of the text as a whole (by reagent and leave-one-out).
    """

    text: str = argument()
    answer: str | None = None
    model: str = option("embedded", metavar="NAME|URL#MODEL")
    tokenizer: str = option("embedded", metavar="NAME")
    chat: bool = False
    methods: tuple[str, ...] = option(METHODS, flag="--method", metavar="NAME[:OPTION=VALUE,...]")
    per: Literal["token", "word"] = "token"
    hardware: StoredHardware = AS_STORED

    def __post_init__(self) -> None:
        if not self.methods:
            raise UserError("give at least one attribution method with --method.")
        if self.tokenizer != "embedded" and not self.is_endpoint:
            raise UserError("--tokenizer is for an endpoint: a model is read by its own.")

    @property
    def is_endpoint(self) -> bool:
        """Whether the model is seen only through what it writes."""
        return self.model.startswith(("http://", "https://"))


def run(plan: Plan, progress: Progress) -> Result:
    """Attribute the answer by every method, and measure the faithfulness of each."""
    from tokenry.attribution import ATTRIBUTIONS, attribute, parts_of_speech
    from tokenry.verbs._tokens import token_texts
    from tokenry.verbs.score import source_text

    read: Callable[[Plan, str], _Asked] = _of_model
    usual: tuple[str, ...] = METHODS
    if plan.is_endpoint:
        read, usual = _of_endpoint, _BLACK_BOX
    elif _is_classifier(plan.model):
        read, usual = _of_classifier, _OF_A_CLASSIFIER
    names = usual if plan.methods == METHODS else plan.methods
    methods = {name: ATTRIBUTIONS.make(name) for name in names}
    text = source_text(plan.text)
    if text is None or not text.strip():
        raise UserError("the text is empty, or data and not a text: give the text itself, or a text file.")
    progress("loading the model", 0.0)
    asked = read(plan, text)
    ids, target = asked.words.input_ids, [asked.target] if asked.target else None
    groups = asked.words.of_token[None] if plan.per == "word" else None
    by_class = any(getattr(method, "sampler", "") == "pos" for method in methods.values())
    classes = parts_of_speech(asked.tokenizer) if by_class else None
    rows = []
    for number, (name, method) in enumerate(methods.items()):
        progress(name, (number + 0.5) / (len(methods) + 1))
        replacements = {"groups": groups, "vocabulary": asked.vocabulary, "classes": classes}
        found = attribute(asked.model, ids[None], target, method, **replacements)
        rows.append(
            {
                "method": name,
                "scores": found.scores[0].tolist(),
                "standard_error": None if found.standard_error is None else found.standard_error[0].tolist(),
                "converged": bool(found.converged[0]),
                "forwards": found.forwards,
                "notes": list(found.notes),
                "faithfulness": asked.faithfulness(found.scores[0]),
            }
        )  # fmt: skip
    progress("random scores", len(methods) / (len(methods) + 1))
    draws = [
        asked.faithfulness(attribute(asked.model, ids[None], target, f"random:seed={seed}").scores[0])
        for seed in range(_RANDOM_DRAWS)
    ]
    data = {
        "kind": "explain",
        "model": plan.model,
        "answer": asked.answer,
        "tokens": token_texts(ids.tolist(), asked.tokenizer),
        "methods": rows,
        "random": {name: _mean([draw[name] for draw in draws]) for name in _METRICS},
        "settings": plan_settings(plan),
        "environment": environment(asked.device),
    }
    return Result(f"What made {model_title(plan.model)} say so", data, lay_out(data))


class _Asked(NamedTuple):
    """What is explained.

    Attributes:
        model: the model, or p(answer) of an endpoint.
        target: the answer's tokens, or a class; empty for an endpoint.
        vocabulary: tokens that replacements are drawn from.
        faithfulness: measures scores of the tokens; None for what cannot be measured.
    """

    model: Any
    tokenizer: "PreTrainedTokenizerBase"
    words: "Words"
    target: tuple[int, ...]
    vocabulary: "Tensor"
    answer: dict[str, Any]
    faithfulness: Callable[["Tensor"], dict[str, float | None]]
    device: "torch.device"


def _of_model(plan: Plan, text: str) -> _Asked:
    from tokenry.attribution import TargetProbability, attribute, faithfulness
    from tokenry.core.text.words import words_of
    from tokenry.models import load_tokenizer

    tokenizer, model = load_tokenizer(plan.model), plan.hardware.load(plan.model)
    words = words_of(tokenizer, _as_said(text, tokenizer, plan) if plan.chat else text, not plan.chat)
    ids, given = words.input_ids, None if plan.answer is None else [_answer_ids(plan.answer, tokenizer)]
    (target,) = attribute(model, ids[None], given, "random").targets
    answer = {
        "tokens": list(target),
        "text": tokenizer.decode(list(target)),
        "probability": float(TargetProbability(model, target)(ids[None])[0]),
    }

    def measured(scores: "Tensor") -> dict[str, float | None]:
        return faithfulness(model, ids, scores, target[0])._asdict()

    vocabulary = _ordinary_tokens(tokenizer, model)
    return _Asked(model, tokenizer, words, target, vocabulary, answer, measured, model.device)


def _of_endpoint(plan: Plan, text: str) -> _Asked:
    from tokenry.attribution import AnswerProbability
    from tokenry.attribution.answer_probability import user_turn
    from tokenry.core.text.words import words_of
    from tokenry.models import load_tokenizer
    from tokenry.models.text_model import Sampling, require_generated

    tokenizer, model = load_tokenizer(plan.tokenizer), text_model(plan.model, plan.hardware)
    words, written = words_of(tokenizer, text, add_special_tokens=False), plan.answer
    if written is None:
        generated = model.generate([user_turn(text) if plan.chat else text], Sampling(max_new_tokens=1))
        require_generated(generated)
        written = generated[0].text
        if not written.strip():
            raise UserError(f"{model.name} writes nothing after this text: give the --answer to explain.")
    p = AnswerProbability(model, tokenizer, written, plan.chat)
    return _black_box(p, p, tokenizer, words, (), (_answer_ids(written, tokenizer), written))


def _is_classifier(name: str) -> bool:
    from tokenry.core.io.files import read_json
    from tokenry.models.loading import MODEL_PATTERNS, find_folder

    config = find_folder(name, MODEL_PATTERNS, None) / "config.json"
    kinds = read_json(config).get("architectures") if config.is_file() else None
    return any(kind.endswith("ForSequenceClassification") for kind in kinds or ())


def _of_classifier(plan: Plan, text: str) -> _Asked:
    import torch

    from tokenry.core.text.words import words_of
    from tokenry.models import load_text_classifier

    if plan.chat:
        raise UserError(f"{plan.model} is a classifier, to which nobody speaks: leave --chat out.")
    classifier = load_text_classifier(plan.model, dtype=plan.hardware.dtype)
    model, labels = classifier.model.to(plan.hardware.place()), classifier.labels
    words = words_of(classifier.tokenizer, text)

    def probabilities(contexts: "Tensor") -> "Tensor":
        return torch.from_numpy(classifier.logits_of(contexts.tolist())).softmax(dim=-1)

    if plan.answer is not None and plan.answer not in labels:
        raise UserError(f"{plan.model} gives the labels {', '.join(labels)}, got --answer {plan.answer}.")
    own = int(probabilities(words.input_ids[None]).argmax())
    label = own if plan.answer is None else labels.index(plan.answer)
    return _black_box(
        model, lambda contexts: probabilities(contexts)[:, label], classifier.tokenizer, words, (label,), ([], labels[label])
    )  # fmt: skip


def _black_box(
    model: Any,
    p: "Probability",
    tokenizer: "PreTrainedTokenizerBase",
    words: "Words",
    target: tuple[int, ...],
    answer: tuple[list[int], str],
) -> _Asked:
    """What is explained, its faithfulness measured by p(answer) alone."""
    import torch

    from tokenry.attribution import FaithfulnessConfig, replacement_aopc

    config, vocabulary = FaithfulnessConfig(draws=1), _ordinary_tokens(tokenizer)

    def measured(scores: "Tensor") -> dict[str, float | None]:
        return dict.fromkeys(_METRICS) | {
            "aopc": replacement_aopc(p, words.input_ids, scores, vocabulary, config)
        }

    tokens, text = answer
    told = {"tokens": tokens, "text": text, "probability": float(p(words.input_ids[None])[0])}
    device = getattr(model, "device", torch.device("cpu"))
    return _Asked(model, tokenizer, words, target, vocabulary, told, measured, device)


def _as_said(text: str, tokenizer: "PreTrainedTokenizerBase", plan: Plan) -> str:
    """The prompt in which the user says the text."""
    from tokenry.attribution.answer_probability import user_turn

    if tokenizer.chat_template is None:
        raise UserError(
            f"the tokenizer of {plan.model} has no chat template: leave --chat out, or give the whole prompt as the text."
        )
    said = tokenizer.apply_chat_template(user_turn(text), add_generation_prompt=True, tokenize=False)
    return str(said)


def _mean(values: Sequence[float | None]) -> dict[str, Any]:
    """The mean of what was measured; of nothing, nothing."""
    measured = [value for value in values if value is not None]
    if not measured:
        return {"value": None, "standard_error": None, "samples": 0}
    return estimate_row(estimate_of_mean(measured))


def _answer_ids(answer: str, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    ids: list[int] = tokenizer(answer, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UserError("the answer has no tokens: leave --answer out to explain the model's next token.")
    return ids


def _ordinary_tokens(
    tokenizer: "PreTrainedTokenizerBase", model: "PreTrainedModel | None" = None
) -> "Tensor":
    """The tokens of text, from which replacements are drawn: none that is special or that was added."""
    import torch

    from tokenry.core.tensors.gate import embedding_rows

    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    number = len(tokenizer) if model is None else min(len(tokenizer), embedding_rows(model))
    return torch.tensor([token for token in range(number) if token not in special])


# --- layout --------------------------------------------------------------------------------------------------------------------------

_ABOUT = (
    "The text is perturbed where the scores say it matters. Soft-NS and sufficiency: does the prediction survive if the most important "
    "tokens are kept? Soft-NC, comprehensiveness and AOPC: does it change if they are removed? Higher is more faithful. Random scores are "
    f"the mean of {_RANDOM_DRAWS} draws; a method that is not above them says nothing about this answer."
)
_ABOUT_BLACK_BOX = (
    "Only p(answer) is read. AOPC: how far it falls if random tokens replace the most important ones, the mean over several shares of the text. Higher is "
    f"more faithful. Random scores are the mean of {_RANDOM_DRAWS} draws; a method that is not above them says nothing about this answer."
)


def lay_out(data: Mapping[str, Any]) -> list[Block]:
    """The text coloured by every method, the faithfulness of each beside random scores, and its most important tokens."""
    answer, methods, metrics = (
        data["answer"],
        data["methods"],
        [name for name in _METRICS if data["random"][name]["samples"]],
    )
    maps = [(row["method"], _coloured(data["tokens"], row)) for row in methods]
    notes = [Text(f"{row['method']}: {note}", "warning") for row in methods for note in row["notes"]]
    rows: list[tuple[Value, ...]] = [
        (row["method"], *(row["faithfulness"][name] for name in metrics), row["forwards"]) for row in methods
    ]
    rows.append(("random", *(stored_estimate(data["random"][name]) for name in metrics), 0))
    columns: tuple[Column | str, ...] = (
        "method",
        *(Column(_METRICS[name], format=".3f") for name in metrics),
        "sequences read",
    )
    return [
        Text(f"Explained: {answer['text']!r}, of probability {answer['probability']:.3f}.", "lead"),
        *notes,
        Section("Importance", [Heatmap("Share of the largest score", maps), *map(_top, methods, [data["tokens"]] * len(methods))]),
        Section("Faithfulness", [Text(_ABOUT if "soft_nc" in metrics else _ABOUT_BLACK_BOX), Table("", columns, rows)]),
    ]  # fmt: skip


def _coloured(texts: list[str], row: Mapping[str, Any]) -> list[Token]:
    """Shares of the largest score; where scores are sums of random trials, only their differences count, and the least is 0."""
    scores = row["scores"]
    if row["standard_error"] is not None:
        scores = [score - min(scores) for score in scores]
    largest = max(map(abs, scores)) or 1.0
    return [
        Token(text, signals={"importance": score / largest})
        for text, score in zip(texts, scores, strict=True)
    ]


def _top(row: Mapping[str, Any], texts: list[str]) -> Table:
    scores, errors = row["scores"], row["standard_error"]
    best = sorted(range(len(scores)), key=lambda place: -scores[place])[:_SHOWN]
    headings: tuple[Column | str, ...] = ("place", "token", Column("score", format=".3g"))
    if errors is None:
        return Table(row["method"], headings, [(place, repr(texts[place]), scores[place]) for place in best])
    return Table(
        row["method"],
        (*headings, Column("standard error", format=".2g")),
        [(place, repr(texts[place]), scores[place], errors[place]) for place in best],
    )
