import json

import pytest

from tests.tiny.chats import sums, write_model, write_rows
from tokenry.core.errors import UserError
from tokenry.core.io.files import write_json
from tokenry.models import load_tokenizer
from tokenry.verbs._tune.bench import Bench
from tokenry.verbs._tune.comparison import challenger, compare, weighings_of
from tokenry.verbs._tune.material import gather, set_aside
from tokenry.verbs._tune.plan import make_plan

TRAINING = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 1,
    "use_cpu": True,
}


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENRY_CACHE", str(folder / "cache"))
        yield {
            "model": str(write_model(folder / "model")),
            "data": str(write_rows(folder / "data.jsonl", sums(24))),
            "max_length": 96,
            "dtype": "float32",
            "weighing": "random",
            "answers": 0,
            "training": TRAINING,
        }


@pytest.fixture(scope="module")
def finished(options, tmp_path_factory):
    """A finished comparison: its plan, its folder, what came of it, and what was reported."""
    output, said = tmp_path_factory.mktemp("finished"), []
    plan = make_plan({**options, "compare": ["full", "sstoken:share=1.0"]})
    return plan, output, compare(plan, output, lambda what, share: said.append((what, share))), said


def silent(what, share):
    pass


def test_a_run_comes_out_the_same_whatever_is_run_beside_it(finished, options, tmp_path):
    (alone,) = compare(make_plan({**options, "compare": []}), tmp_path, silent).runs
    beside = finished[2].runs[1]
    assert (alone.name, alone.held_out_nll) == (beside.name, beside.held_out_nll)
    assert [point["loss"] for point in alone.curves] == [point["loss"] for point in beside.curves]


def test_all_runs_begin_with_the_same_adapter_and_the_same_order(finished):
    full, _, same = finished[2].runs
    assert same.name == "sstoken share=1.0"
    assert same.held_out_nll.value == pytest.approx(full.held_out_nll.value, abs=1e-6)


def test_progress_never_goes_back_and_ends_at_one(finished):
    shares = [share for _, share in finished[3]]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)


def test_training_takes_most_of_the_progress(finished):
    shares = dict(finished[3][::-1])  # of each thing that is done, the share when it began
    assert shares["full: held-out loss"] - shares["full"] > 0.2


def test_resuming_does_only_what_is_missing(finished, monkeypatch):
    plan, output, comparison, _ = finished
    (output / "result.json").unlink()
    monkeypatch.setattr(Bench, "load", lambda *_: pytest.fail("a model was loaded"))
    again = compare(plan, output, silent)
    assert again.runs == comparison.runs
    assert again.untrained_nll == comparison.untrained_nll


def test_the_record_holds_numbers_only(finished):
    text = (finished[1] / "result.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the record"))


def test_an_output_of_another_plan_is_refused(finished, options):
    with pytest.raises(UserError, match="holds a run with other settings"):
        compare(make_plan({**options, "seed": 1}), finished[1], silent)


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"weighing": "random"}, "random"),
        ({"weighing": "random:share=0.2"}, "random share=0.2"),
        ({"weighing": "full"}, None),
        ({"weighing": "auto"}, None),  # too few samples for a race
    ],
)
def test_seeds_are_for_the_weighing_asked_for(said, found):
    plan = make_plan({"data": "mine", **said})
    assert challenger(plan, None, ["full", "random", "random share=0.2"]) == found


@pytest.mark.parametrize("name", ["run.json", "held_out.json"])
def test_a_damaged_run_is_named_with_what_to_do(finished, name):
    plan, output, comparison, _ = finished
    (output / "result.json").unlink(missing_ok=True)
    path = output / "random" / name
    content = path.read_text()
    path.write_text(content[:50])
    try:
        with pytest.raises(
            UserError, match=r"random is damaged: delete that folder, and the run is made again"
        ):
            compare(plan, output, silent)
    finally:
        path.write_text(content)
        write_json(output / "result.json", comparison.model_dump(mode="json"))


def test_data_that_changed_are_not_gone_on_with(options, tmp_path):
    data = write_rows(tmp_path / "data.jsonl", sums(12))
    plan = make_plan({**options, "data": str(data), "compare": [], "training": {**TRAINING, "max_steps": 1}})
    compare(plan, tmp_path / "output", silent)
    (tmp_path / "output" / "result.json").unlink()
    write_rows(data, sums(12, seed=5))
    with pytest.raises(UserError, match="the data has changed since the run in"):
        compare(plan, tmp_path / "output", silent)


def test_a_token_class_is_counted_and_the_end_token_is_not_in_it(finished):
    of_number = finished[2].runs[0].share_by_class["number"]
    assert of_number.tokens >= 8


def test_own_data_have_a_tenth_set_aside_the_same_one_every_time():
    rows = sums(120)
    kept, held_out = set_aside(rows, seed=3)
    assert (len(kept), len(held_out)) == (108, 12)
    assert sorted(map(str, kept + held_out)) == sorted(map(str, rows))
    assert set_aside(rows, seed=3) == (kept, held_out)
    assert set_aside(rows, seed=4) != (kept, held_out)


@pytest.mark.parametrize(
    ("rows", "held_out"), [(4, 2), (6, 2), (9, 3), (21, 7), (22, 8), (40, 8), (90, 9), (9000, 500)]
)
def test_of_few_rows_a_third_is_set_aside_until_there_are_enough_to_tell_a_difference(rows, held_out):
    kept, aside = set_aside([{"text": str(number)} for number in range(rows)], seed=3)
    assert (len(kept), len(aside)) == (rows - held_out, held_out)


def test_trusted_samples_are_training_data_too(options, tmp_path):
    trusted = write_rows(tmp_path / "trusted.jsonl", sums(5, seed=9))
    plan = make_plan({**options, "trusted": str(trusted)})
    material = gather(plan, load_tokenizer(plan.model))
    assert (len(material.train), len(material.trusted), len(material.held_out)) == (16 + 5, 5, 8)


@pytest.mark.parametrize(
    ("said", "counts"),
    [
        ({}, (10, 9, 9)),
        ({"candidates": ["small-loss"]}, (19, 0, 9)),
        ({"reference": "a/model"}, (19, 0, 9)),
        ({"candidates": ["small-loss"], "compare": ["full", "token-cleaning"]}, (10, 9, 9)),
    ],
)
def test_a_race_splits_trusted_samples_between_training_the_reference_model_and_judging(
    options, tmp_path, said, counts
):
    rows = [
        {"messages": [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "a " * n}]}
        for n in range(1, 29)
    ]
    trusted = write_rows(tmp_path / "trusted.jsonl", rows)
    plan = make_plan(
        {
            **options,
            "data": str(write_rows(tmp_path / "data.jsonl", sums(60))),
            "weighing": "auto",
            **said,
            "trusted": str(trusted),
        }
    )
    material = gather(plan, load_tokenizer(plan.model))
    asked = [
        tuple(ids) for part in (material.trusted, material.validation) if part for ids in part["input_ids"]
    ]
    trained = {tuple(ids) for ids in material.train["input_ids"]}
    assert tuple(material.split.values()) == counts
    assert (len(material.trusted or []), len(material.validation)) == counts[1:]
    assert len(material.train) == 52 + counts[0]
    assert len(set(asked)) == len(asked) == sum(counts[1:])
    assert not trained & set(asked)
    assert material.validation_is_trusted


def test_few_trusted_samples_are_not_split(options, tmp_path):
    trusted = write_rows(tmp_path / "trusted.jsonl", sums(23, seed=9))
    plan = make_plan(
        {
            **options,
            "data": str(write_rows(tmp_path / "data.jsonl", sums(60))),
            "weighing": "auto",
            "trusted": str(trusted),
        }
    )
    material = gather(plan, load_tokenizer(plan.model))
    assert not material.split
    assert not material.validation_is_trusted
    assert len(material.trusted) == 23


def test_share_is_for_those_that_select_and_do_not_say_their_own():
    plan = make_plan(
        {"data": "mine", "weighing": "sstoken", "compare": ["full", "random:share=0.2"], "share": 0.5}
    )
    shares = {name: weighing.share for name, weighing in weighings_of(plan).items()}
    assert shares == {"full": 1.0, "sstoken": 0.5, "random share=0.2": 0.2}


def test_the_weighing_asked_for_is_run_once_where_it_is_the_control_too():
    assert list(weighings_of(make_plan({"data": "mine", "weighing": "full"}))) == ["full"]


def test_weighings_that_would_share_a_folder_are_refused():
    plan = make_plan({"data": "mine", "weighing": "rho1:reference=a/B", "compare": ["rho1:reference=A/b"]})
    with pytest.raises(UserError, match="too much alike to be kept apart"):
        weighings_of(plan)


def test_diverged_training_says_what_to_do(options, tmp_path):
    training = {**TRAINING, "learning_rate": 1e30}
    plan = make_plan({**options, "compare": [], "weighing": "full", "training": training})
    with pytest.raises(UserError, match="training has diverged; try a lower learning rate"):
        compare(plan, tmp_path, silent)
