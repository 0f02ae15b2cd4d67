"""Reinforcement learning with credit per token: credit rules side by side on questions whose answers can be verified.

The first rule of --compare is the control: the reward of every other run on held-out questions is compared with it, question by
question. What is finished is kept: an interrupted run goes on from its last checkpoint, with fresh responses.
"""

import datetime
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenry.core.errors import UserError, require_above_zero, require_at_least
from tokenry.core.io.descriptions import nearest, split_descriptions
from tokenry.core.io.files import read_json, require_folder_name, write_json
from tokenry.core.io.progress import Progress
from tokenry.core.io.schema import SCHEMA
from tokenry.core.io.settings import of_kind, parse_yaml
from tokenry.core.plans import argument, build_plan, option, plan_settings, read_values
from tokenry.core.stats import Estimate, estimate_of_mean, paired_difference, shown
from tokenry.report.result import Result
from tokenry.report.tables import tables_as_csv
from tokenry.verbs._chats import DEMO
from tokenry.verbs._environment import environment
from tokenry.verbs._hardware import Hardware
from tokenry.verbs._models import model_title
from tokenry.verbs._rl.layout import lay_out
from tokenry.verbs._side_by_side import SideBySide, require_apart

if TYPE_CHECKING:
    from tokenry.alignment import TokenCredit
    from tokenry.verbs._rl.arms import Arms

__all__ = ["Plan", "lay_out", "run"]

logger = logging.getLogger(__name__)

_OWN = {
    "output_dir": "--output",
    "seed": "--seed",
    "max_steps": "--steps",
    "num_generations": "--group",
    "per_device_train_batch_size": "--prompts",
    "generation_batch_size": "--prompts",
    "steps_per_generation": "--updates",
    "max_completion_length": "--max-new-tokens",
    "temperature": "--temperature",
    "learning_rate": "--learning-rate",
    "resume_from_checkpoint": "--resume",
}
"""Training arguments that are options, which --set would say a second time."""
_OF_THIS_CALL = ("output", "resume", "dry_run")


@dataclass(frozen=True)
class Plan:
    """Train a language model by reinforcement learning with credit per token, beside GRPO, and say which was better.

    Attributes:
        model: `embedded`, a folder, or a hub name.
        data: `demo`, or a file, folder or hub name of prompts with answers.
        credit: credit rules to train with, such as tempo,hapo:tau=0.1; tempo+hapo is one run with the parts of both.
        compare: credit rules trained beside them; the first is the control.
        reward: exact, number, or module:function; by default the data's own verifiers, exact for a column of answers.
        held_out: data to measure the reward on; by default a part of the data is set aside.
        answers: held-out questions answered before and after training.
        steps: optimisation steps of each run.
        prompts: prompts of each generation.
        group: responses to each prompt.
        updates: optimisation steps on each generation; more than 1 where a rule reads the ratio to the policy that generated.
        max_new_tokens: maximum number of tokens of a response.
        temperature: sampling temperature.
        learning_rate: learning rate, constant.
        lora_rank: rank of the adapter; 0 trains all weights.
        seed: random seed of data, adapter, order and sampling.
        set_: an argument of TRL's GRPOConfig, such as beta=0.01; can be repeated.
        output: folder for result.json, report.html and the trained models.
        resume: go on with the run in --output, with its settings.
        dry_run: print what a run will cost, by one trial generation, and train nothing.
    """

    model: str = argument("embedded")
    data: str = argument(DEMO)
    credit: str = "tempo,hapo"
    compare: str = "grpo"
    reward: str | None = None
    held_out: str | None = None
    answers: int = 48
    steps: int = 16
    prompts: int = 4
    group: int = 8
    updates: int = 2
    max_new_tokens: int = 12
    temperature: float = 1.0
    learning_rate: float = 1e-4
    lora_rank: int = 16
    seed: int = 42
    hardware: Hardware = Hardware()
    set_: tuple[str, ...] = option((), metavar="KEY=VALUE")
    output: Path = Path("runs/rl")
    resume: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        require_folder_name(self.output, "the trained models")
        require_at_least(1, steps=self.steps, prompts=self.prompts, updates=self.updates)
        require_at_least(1, max_new_tokens=self.max_new_tokens)
        require_at_least(2, answers=self.answers)
        require_at_least(0, lora_rank=self.lora_rank, seed=self.seed)
        if self.group < 2:
            raise UserError(
                f"group must be at least 2, got {self.group}: a response is measured against the others to its prompt."
            )
        require_above_zero(temperature=self.temperature, learning_rate=self.learning_rate)

    @property
    def stored(self) -> dict[str, Any]:
        """The settings that a run is made of, as JSON knows them."""
        return plan_settings(self, without=_OF_THIS_CALL)

    @property
    def arguments(self) -> dict[str, Any]:
        """The training arguments of --set."""
        from typing import get_type_hints

        from trl import GRPOConfig

        known, arguments = get_type_hints(GRPOConfig), {}
        for written in self.set_:
            name, equals, value = (part.strip() for part in written.partition("="))
            if not equals:
                raise UserError(f"--set takes KEY=VALUE, such as beta=0.01, got {written!r}.")
            if name in _OWN:
                raise UserError(f"{name} is no setting here: use {_OWN[name]}.")
            if name not in known:
                raise UserError(
                    f"there is no setting {name!r}{nearest(name, known)}: settings are the arguments of TRL's GRPOConfig."
                )
            arguments[name] = of_kind(known[name], parse_yaml(value, f"--set {name}"), name)
        return arguments


def run(plan: Plan, progress: Progress) -> Result:
    """Train and measure every credit rule, or go on with that; a finished run is read.

    Raises:
        UserError: something in the plan, the data or the model cannot work; said before training begins.
        Interrupted: the user stopped it; what was finished is kept.
    """
    runs = SideBySide("rl", plan.output)
    runs.require_own()
    if plan.dry_run:
        return _dry_run(plan, progress)
    if runs.is_begun:
        plan = _resumed(plan, runs)
    is_finished = runs.result_file.exists()
    data = read_json(runs.result_file) if is_finished else _carry_out(plan, runs, progress)
    blocks = lay_out(data)
    return Result(
        f"{model_title(data['model'])} on {data['data']}", data, blocks, files=tables_as_csv(blocks)
    )


def _resumed(plan: Plan, runs: SideBySide) -> Plan:
    """The plan of the run in the folder; what is typed beside --resume and is no default must be the same."""
    runs.require_resume(plan.resume)
    begun = runs.read_plan(lambda stored: build_plan(Plan, read_values(Plan, stored, "it")))
    defaults = Plan().stored
    asked = {name: value for name, value in plan.stored.items() if value != defaults[name]}
    runs.require_same(asked, begun.stored)
    return replace(begun, output=plan.output, resume=True)


def credits_of(plan: Plan) -> "dict[str, TokenCredit]":
    """The credit rules by name, the control first; `tempo+hapo` is a mix."""
    from tokenry.alignment import make_credit

    named = dict.fromkeys([*split_descriptions(plan.compare), *split_descriptions(plan.credit)])
    if len(named) < 2:
        raise UserError(
            f"{' and '.join(named) or 'nothing'} alone is compared with nothing: name a rule in --credit and a control in --compare."
        )
    names = [name.replace(":", " ") for name in named]
    require_apart(names)
    return dict(zip(names, map(make_credit, named), strict=True))


def _assemble(plan: Plan, progress: Progress) -> "Arms":
    """Read everything, and refuse what cannot work before a model is loaded."""
    credits = credits_of(plan)
    from tokenry.alignment.credit_trainer import refuse
    from tokenry.models import load_tokenizer
    from tokenry.verbs._rl.arms import Arms, training_arguments
    from tokenry.verbs._rl.questions import gather
    from tokenry.verbs._rl.rewards import Reward

    progress("reading the questions", 0.0)
    args = training_arguments(plan, plan.output)
    for credit in credits.values():
        refuse(credit, {"args": args})
    reward = Reward(plan.reward)
    questions = gather(plan.data, plan.held_out, plan.answers, plan.reward, plan.seed)
    if len(questions.train) < plan.prompts:
        raise UserError(
            f"prompts is {plan.prompts}, and there are {len(questions.train)} questions to train on: lower it, or give more."
        )
    reward.of_texts(questions.train[:2], ["", "The answer is 1."][: len(questions.train)])
    return Arms(plan, credits, questions, reward, load_tokenizer(plan.model), progress)


def _dry_run(plan: Plan, progress: Progress) -> Result:
    """What a run would cost, after everything that it would refuse was refused."""
    from tokenry.verbs._rl.forecast import forecast, lay_out_forecast

    found = forecast(_assemble(plan, progress))
    data = {"kind": "rl", "dry_run": True, "settings": plan_settings(plan), **found}
    return Result(f"Plan of {model_title(plan.model)} on {plan.data}", data, lay_out_forecast(found))


def _carry_out(plan: Plan, runs: SideBySide, progress: Progress) -> dict[str, Any]:
    arms: Arms | None = None
    with runs.at_work(lambda: arms.stages.what if arms else "reading the questions"):
        arms = _assemble(plan, progress)
        if runs.is_begun:
            arms.stages.skip(arms.generation_cost)  # there is no second trial
        runs.begin(plan.stored, arms.questions.fingerprint, partial(_prepare, arms))
        before = arms.before()
        data = {
            "schema": SCHEMA,
            "kind": "rl",
            "model": plan.model,
            "data": plan.data,
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "settings": plan_settings(plan),
            "environment": environment(arms.args.device, "trl", "peft"),
            "generations": arms.generations,
            "questions": [str(question["prompt"][-1]["content"]) for question in arms.questions.held_out],
            "before": before,
            **_outcomes(before, [arms.run(name) for name in arms.credits]),
        }
        write_json(runs.result_file, data)
    return data


def _outcomes(before: Mapping[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Held-out rewards, and their paired differences to those before training and to those of the control."""
    control = runs[0]

    def paired(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Estimate:
        return paired_difference(ours["rewards"], theirs["rewards"])

    rows = []
    for run in runs:
        against = paired(run["held_out"], control["held_out"])
        compared = {"to": control["name"], **asdict(against), "verdict": shown(against)}
        rows.append(
            {
                "name": run["name"],
                "reward": asdict(estimate_of_mean(run["held_out"]["rewards"])),
                "change": asdict(paired(run["held_out"], before)),
                "difference": None if run is control else compared,
            }
        )
    return {"before_training": asdict(estimate_of_mean(before["rewards"])), "outcomes": rows, "runs": runs}


def _prepare(arms: "Arms") -> None:
    """Say what a new run will cost, by one generation of it."""
    from tokenry.verbs._rl.forecast import forecast, in_words

    found = forecast(arms)
    logger.info("%s", in_words(found))
    if found["reward"] == 0:
        logger.warning(
            "no response of the trial generation had a reward: where all rewards of a group are alike, nothing is learned."
        )
