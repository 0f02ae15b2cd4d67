"""Credit rules side by side on a tiny model, whose reward is the share of vowels: it learns in seconds, or is stopped before."""

import json
import re
from types import SimpleNamespace

import pytest

from tests.tiny.chats import sums, write_model, write_rows
from tests.verbs.check_verb import check_refused, check_verb, tokenry
from tokenry.alignment import MixedCredit
from tokenry.core.errors import UserError
from tokenry.verbs._rl import arms as arms_module
from tokenry.verbs._rl.arms import Arms
from tokenry.verbs._rl.questions import DEMO_QUESTIONS, gather
from tokenry.verbs._rl.rewards import Reward
from tokenry.verbs.rl import Plan, credits_of, lay_out

SMALL = ("--steps", 4, "--prompts", 2, "--group", 4, "--answers", 8, "--max-new-tokens", 6)
SMALL += ("--lora-rank", 2, "--device", "cpu", "--dtype", "float32")
REWARD = "tests.verbs.test_rl:vowels"


def vowels(completions, **columns):
    return [sum(letter in "aeiou" for letter in turns[-1]["content"]) / 10 for turns in completions]


def nothing(completions, **columns):
    return None


def one_too_few(completions, **columns):
    return [0.0] * (len(completions) - 1)


def not_a_number(completions, **columns):
    return [float("nan")] * len(completions)


def failing(completions, **columns):
    raise KeyError("colour")


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    return SimpleNamespace(
        model=write_model(folder / "model"), data=write_rows(folder / "data.jsonl", sums(24)), folder=folder
    )


@pytest.fixture(scope="module")
def trained(desk):
    """A finished run of three rules, as it was saved."""
    output = desk.folder / "finished"
    return check_verb("rl", desk.model, desk.data, "--reward", REWARD, *SMALL, output=output), output


def test_every_rule_is_trained_and_compared_with_the_control(trained):
    data, output = trained
    assert [run["name"] for run in data["runs"]] == ["grpo", "tempo", "hapo"]
    assert [run["steps"] for run in data["runs"]] == [4, 4, 4]
    assert [bool(row["difference"]) for row in data["outcomes"]] == [False, True, True]
    assert {row["difference"]["to"] for row in data["outcomes"][1:]} == {"grpo"}
    for name in ("grpo", "tempo", "hapo"):
        assert (output / name / "model" / "adapter_model.safetensors").exists()
        assert not list((output / name).glob("checkpoint-*"))


def test_all_rules_begin_with_the_same_responses(trained):
    first = [run["curves"][0] for run in trained[0]["runs"]]
    assert len({point["reward"] for point in first}) == 1
    assert len({point["entropy"] for point in first}) == 1


def test_the_clipped_share_is_known_for_every_tenth_by_entropy(trained):
    for run in trained[0]["runs"]:
        if run["name"] == "hapo":
            assert {f"clip_share/decile_{decile}" for decile in range(1, 11)} <= run["curves"][-1].keys()


def test_the_same_responses_are_credited_by_every_rule(trained):
    responses = trained[0]["runs"][0]["rollouts"]["responses"]
    rewards = [response["reward"] for response in responses]
    assert rewards == sorted(rewards, reverse=True)
    for response in responses:
        assert [credited["name"] for credited in response["advantages"]] == ["grpo", "tempo", "hapo"]
        assert {len(credited["values"]) for credited in response["advantages"]} == {len(response["tokens"])}
        assert len(set(response["advantages"][0]["values"])) == 1, "GRPO credits all tokens alike"
    best, worst = (response["advantages"][0]["values"][0] for response in (responses[0], responses[-1]))
    assert best > 0 > worst


def test_the_page_holds_curves_deciles_and_heat_maps(trained):
    page = (trained[1] / "report.html").read_text(encoding="utf-8")
    for words in ("Training reward", "Clipped tokens by entropy", "Held-out answers", "branch share"):
        assert words in page
    assert "response 1, reward" in page


def test_a_finished_run_is_read_and_not_made_again(trained, desk, monkeypatch):
    monkeypatch.setattr(Arms, "load", lambda *_: pytest.fail("a model was loaded"))
    again = tokenry("rl", "--resume", "--output", trained[1], "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["runs"] == trained[0]["runs"]


def test_the_folder_of_another_run_is_refused(trained, desk):
    arguments = (desk.model, desk.data, "--reward", REWARD, *SMALL, "--output", trained[1])
    check_refused("rl", *arguments, words="already holds a run: go on with it by --resume")
    check_refused(
        "rl",
        *arguments,
        "--resume",
        "--seed",
        7,
        words="was made with --seed 42, not 7: leave it out to go on",
    )
    (desk.folder / "thesis").mkdir(exist_ok=True)
    (desk.folder / "thesis" / "thesis.tex").touch()
    check_refused("rl", "--output", desk.folder / "thesis", words="holds no run of `tokenry rl`")


@pytest.fixture
def stopped(desk, tmp_path, monkeypatch):
    """Ctrl-C in the third step of the second rule."""
    tell = arms_module.TellSteps.on_step_end

    def press(callback, args, state, control, **kwargs):
        if state.global_step == 3 and (tmp_path / "run" / "grpo" / "run.json").exists():
            raise KeyboardInterrupt
        tell(callback, args, state, control, **kwargs)

    arguments = (
        desk.model,
        desk.data,
        "--reward",
        REWARD,
        *SMALL,
        "--credit",
        "tempo",
        "--output",
        tmp_path / "run",
    )
    with monkeypatch.context() as patch:
        patch.setattr(arms_module.TellSteps, "on_step_end", press)
        return tmp_path / "run", tokenry("rl", *arguments)


def test_an_interrupted_run_goes_on_from_its_checkpoint_and_keeps_what_is_finished(stopped, monkeypatch):
    output, result = stopped
    assert (result.exit_code, result.stdout) == (1, "")
    said = result.stderr.splitlines()[-1]
    assert said == (
        "tokenry: stopped while doing this: tempo; what is finished is kept: go on with "
        f"`tokenry rl --resume --output {output}`."
    )
    kept = (output / "grpo" / "run.json").read_bytes()
    trained, train = [], Arms._train

    def counted(arms, credit, folder, clock):
        trainer = train(arms, credit, folder, clock)
        trained.append((folder.name, clock.steps))
        return trainer

    monkeypatch.setattr(Arms, "_train", counted)
    again = tokenry("rl", "--resume", "--output", output)
    assert again.exit_code == 0, again.output
    assert trained == [("tempo", 2)], "from checkpoint-2 to step 4"
    assert (output / "grpo" / "run.json").read_bytes() == kept
    curve = json.loads((output / "tempo" / "run.json").read_text())["curves"]
    assert [point["step"] for point in curve] == [1, 2, 3, 4]


def test_a_dry_run_says_what_a_step_costs_and_keeps_nothing(desk, tmp_path):
    arguments = (desk.model, desk.data, "--reward", REWARD, *SMALL, "--output", tmp_path / "run", "--dry-run")
    # With beta, TRL keeps the untrained adapter as the reference.
    result = tokenry("rl", *arguments, "--set", "beta=0.01", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["responses"], found["tokens"], found["generations"]) == (8, 48, 2)
    assert (found["generating_passes"], found["scoring_passes"], found["learning_passes"]) == (6, 1, 2)
    assert found["minutes"] > 0
    assert not (tmp_path / "run").exists()
    shown = tokenry("rl", *arguments).stdout
    assert "forward and backward passes to learn" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--credit", "tempi"], "there is no credit rule 'tempi' (did you mean 'tempo'?)"),
        (["--credit", "hapo:tao=1"], "hapo has no option 'tao' (did you mean 'tau'?)"),
        (["--credit", "grpo"], "grpo alone is compared with nothing"),
        (["--group", "1"], "--group must be at least 2, got 1"),
        (["--group", "3"], "2 prompts x 3 responses cannot be split evenly into 4 micro-batches"),
        (["--updates", "1"], "reads the ratio to the policy that generated, which is 1"),
        (["--set", "loss_type=cispo"], "loss_type='cispo' has no clip range"),
        (["--set", "importance_sampling_level=sequence"], "set importance_sampling_level='token'"),
        (["--set", "use_vllm=true"], "which use_vllm does not let it do"),
        (["--set", "bata=1"], "there is no setting 'bata' (did you mean 'beta'?)"),
        (["--set", "max_steps=3"], "max_steps is no setting here: use --steps"),
        (["--set", "beta"], "--set takes KEY=VALUE"),
        (["--temperature", "0"], "--temperature must be above 0, got 0.0"),
        (["--reward", "exakt"], "there is no reward 'exakt' (did you mean 'exact'?)"),
        (["--reward", "nowhere:vowels"], "there is no module 'nowhere'"),
        (["--reward", "tests.verbs.test_rl:vowel"], "has no function 'vowel' (did you mean 'vowels'?)"),
        (["--reward", "tests.verbs.test_rl:SMALL"], "must be a function that returns a list"),
        (["--reward", "tests.verbs.test_rl:nothing"], "returned None: it must return a list"),
        (["--reward", "tests.verbs.test_rl:one_too_few"], "returned 1 numbers for 2 completions"),
        (["--reward", "tests.verbs.test_rl:not_a_number"], "returned nan for completion 0"),
        (["--reward", "tests.verbs.test_rl:failing"], "failed (KeyError: 'colour')"),
        (["--prompts", "99", "--group", "4"], "prompts is 99, and there are 16 questions to train on"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused_before_a_model_is_loaded(desk, tmp_path, monkeypatch, arguments, words):
    monkeypatch.setattr(Arms, "load", lambda *_: pytest.fail("a model was loaded"))
    given = (*SMALL[:4], "--updates", 4, *SMALL[4:], "--reward", REWARD, *arguments)
    if "--set" not in arguments:
        given = (*SMALL, "--updates", 4, "--reward", REWARD, *arguments)
    check_refused("rl", desk.model, desk.data, *given, "--output", tmp_path / "run", words=words)
    assert not (tmp_path / "run" / "plan.json").exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "holds no rows"),
        ([{"text": "a"}], "row 1: there is no prompt (columns found: text)"),
        ([{"prompt": "a"}], "row 1: there is no `answer` to verify by (columns beside the prompt: none)"),
        ([{"prompt": " ", "answer": 1}], "row 1: the prompt is empty"),
        ([{"prompt": [{"role": "assistant", "content": "a"}], "answer": 1}], "end with the user's turn"),
        ([{"prompt": "a", "verifier": "{"}], "the verifier is not valid JSON"),
        ([{"prompt": "a", "verifier": {"kind": "guess"}}], "a verifier's kind is one of"),
        ([{"prompt": "a", "answer": 1}] * 3, "holds 3 questions, too few"),
    ],
)
def test_rows_that_are_no_questions_are_named(tmp_path, rows, words):
    path = write_rows(tmp_path / "rows.jsonl", rows)
    with pytest.raises(UserError, match=re.escape(words)):
        gather(str(path), None, 4, None, seed=0)


def test_held_out_questions_of_the_user_are_those_that_are_measured(tmp_path):
    data = write_rows(tmp_path / "data.jsonl", sums(4))
    held_out = write_rows(tmp_path / "held-out.jsonl", sums(5, seed=1))
    questions = gather(str(data), str(held_out), 3, None, seed=0)
    assert (len(questions.train), len(questions.held_out)) == (4, 3)
    assert questions.fingerprint != gather(str(data), str(held_out), 2, None, seed=0).fingerprint
    one = write_rows(tmp_path / "one.jsonl", sums(1))
    with pytest.raises(UserError, match="holds one question, which has no standard error"):
        gather(str(data), str(one), 3, None, seed=0)
    with pytest.raises(UserError, match="the demo brings held-out questions of its own"):
        gather("demo", str(held_out), 3, None, seed=0)


def test_a_table_of_questions_and_answers_is_read(tmp_path):
    path = tmp_path / "sums.csv"
    path.write_text("question,answer\n" + "".join(f"1 + {n}?,{n + 1}\n" for n in range(20)), encoding="utf-8")
    questions = gather(str(path), None, 6, "number", seed=0)
    assert (len(questions.train), len(questions.held_out)) == (14, 6)
    question = questions.train[0]
    (turn,) = question["prompt"]
    right = str(int(turn["content"].split()[2].rstrip("?")) + 1)
    assert Reward("number").of_texts([question, question], [f"It is {right}.", "It is 99."]) == [1.0, 0.0]


def test_the_demo_asks_no_question_twice():
    pytest.importorskip("reasoning_gym")
    questions = gather("demo", None, 10, None, seed=3)
    assert (len(questions.train), len(questions.held_out)) == (DEMO_QUESTIONS, 10)
    asked = [question["prompt"][-1]["content"] for question in questions.train + questions.held_out]
    assert len(set(asked)) == len(asked)
    assert questions == gather("demo", None, 10, None, seed=3)
    for question in questions.held_out:
        answer = json.loads(question["verifier"]["entry"])["answer"]
        said = [f"The answer is {answer}.", "The answer is 1000."]
        assert Reward(None).of_texts([question] * 2, said) == [1.0, 0.0]
        solved = question["prompt"][-2]["content"]
        assert solved.startswith("The answer is ")


def test_a_mix_is_one_run():
    credits = credits_of(Plan(credit="tempo+hapo:tau=1e-2,hapo:tau=0.1"))
    assert list(credits) == ["grpo", "tempo+hapo tau=1e-2", "hapo tau=0.1"]
    mixed = credits["tempo+hapo tau=1e-2"]
    assert isinstance(mixed, MixedCredit)
    assert [type(rule).__name__ for rule in mixed.credits] == ["Tempo", "HeterogeneousCredit"]
    assert mixed.credits[1].tau == 0.01


def test_a_run_without_any_reward_is_warned_of(trained):
    data = json.loads(json.dumps(trained[0]))
    for point in data["runs"][1]["curves"]:
        point.update(reward=0.0)
    warnings = [block.text for block in lay_out(data) if getattr(block, "kind", "") == "warning"]
    assert [text.partition(":")[0] for text in warnings] == ["tempo"]
