from dataclasses import dataclass

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, SiglipVisionConfig, SiglipVisionModel

from tests.compression.vision.check_reducer import check_reducer
from tests.tiny.images import CLASSES, IMAGE, SIZE, write_classifier, write_images, write_model
from tests.verbs.check_verb import tokenry
from tokenry.compression.apply import apply_token_reduction
from tokenry.compression.plan import MergePlan
from tokenry.compression.reducer import REDUCERS, LayerReducer
from tokenry.compression.vision.tome import ToMe
from tokenry.core.errors import UserError
from tokenry.core.io.images import find_images, read_image
from tokenry.models.image_encoders import load_image_encoder
from tokenry.verbs._hardware import Hardware
from tokenry.verbs.compress import vision
from tokenry.verbs.compress._vision import bench
from tokenry.verbs.compress._vision.records import read_run
from tokenry.verbs.compress._vision.settings import SHARES
from tokenry.verbs.compress.vision import Plan


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A classifier and six images."""
    folder = tmp_path_factory.mktemp("vision")
    write_classifier(folder / "model")
    write_images(folder / "images")
    return folder


def silent(what, share):
    pass


@pytest.fixture
def run(desk):
    def run(*methods, model="model", **options):
        plan = Plan(
            model=str(desk / model),
            methods=methods,
            hardware=Hardware(dtype="float32"),
            **{"images": desk / "images", "rounds": 2, "batch_size": 4, "pictures": 2} | options,
        )
        return read_run(vision.run(plan, silent).data)

    return run


def tower(desk, name, model):
    if not (desk / name).exists():
        write_model(model, desk / name)
    return name


def own_labels(desk, path):
    """What the unpatched model says, as labels."""
    encoder = load_image_encoder(desk / "model")
    rows = []
    for file in find_images(desk / "images"):
        with torch.no_grad():
            answer = encoder(encoder.pixels([read_image(file.path)])).argmax().item()
        rows.append(f"{file.name},{CLASSES[answer]}")
    path.write_text("\n".join(["file,label", *rows]))
    return path


def test_a_run_tells_tokens_flops_and_what_it_was_made_with(run, desk):
    record = run("tome:r=3")
    (result,) = record.results
    assert (result.name, result.options["r"], result.token_counts) == ("tome r=3", 3, [17, 14, 11, 8, 5])
    encoder = load_image_encoder(desk / "model")
    with apply_token_reduction(encoder.model, ToMe(3)) as reduction:
        encoder(torch.zeros(1, 3, 32, 32))
        assert (result.flops, record.unpatched.flops) == (reduction.flops, reduction.dense_flops)
    assert (record.number_of_images, record.unpatched.tokens, record.agreement_of) == (6, 17, "top-1")


def test_a_reduction_of_nothing_agrees_on_everything(run, desk):
    (result,) = run("tome:r=0").results
    assert result.agreement.value == 1.0
    assert result.finding.startswith(("does not pay here: it saves 0% of the FLOPs", "saves 0% of the FLOPs"))
    dino = tower(desk, "dino", Dinov2Model(Dinov2Config(**SIZE, **IMAGE)))
    assert run("tome:r=0", model=dino).results[0].agreement.value == pytest.approx(1.0, abs=1e-6)


def test_accuracy_is_measured_where_labels_are_given(run, desk, tmp_path):
    record = run("random:ratio=0.5", labels=own_labels(desk, tmp_path / "labels.csv"))
    (result,) = record.results
    assert record.unpatched.accuracy.value == 1.0
    assert result.accuracy == result.agreement
    assert result.agreement.value < 1.0
    assert result.accuracy_change.value == pytest.approx(result.agreement.value - 1.0)
    assert "accuracy −" in result.finding


def test_images_without_a_label_count_for_no_accuracy(run, desk, tmp_path):
    rows = own_labels(desk, tmp_path / "labels.csv").read_text().splitlines()
    (tmp_path / "labels.csv").write_text("\n".join(rows[:4]))
    record = run("tome:r=3", labels=tmp_path / "labels.csv")
    assert (record.unpatched.accuracy.value, record.unpatched.accuracy.samples) == (1.0, 3)
    assert record.results[0].agreement.samples == 6


def test_a_model_without_classes_is_compared_by_its_features(run, desk):
    record = run("tome:r=3", model=tower(desk, "dino", Dinov2Model(Dinov2Config(**SIZE, **IMAGE))))
    assert record.agreement_of == "features"
    assert -1.0 <= record.results[0].agreement.value < 1.0
    assert "cosine to the unpatched features" in record.results[0].finding


def test_two_runs_say_the_same_and_leave_the_callers_random_numbers_alone(run):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first, second = run("random:ratio=0.6"), run("random:ratio=0.6")
    assert torch.rand(1) == expected
    assert first.results[0].agreement == second.results[0].agreement
    assert first.pictures == second.pictures


def test_batches_of_another_size_change_nothing_that_is_not_time(run):
    one, all_at_once = run("pitome:ratio=0.7", batch_size=1), run("pitome:ratio=0.7", batch_size=6)
    assert one.results[0].agreement == all_at_once.results[0].agreement
    assert one.pictures == all_at_once.pictures


def test_the_head_gets_all_tokens_where_it_reads_patches(run, desk):
    siglip = tower(desk, "siglip", SiglipVisionModel(SiglipVisionConfig(**SIZE, **IMAGE)))
    assert run("tome:r=3").settings["restore_length"] is False
    assert run("tome:r=3", model=siglip).settings["restore_length"] is True
    record = run("tome:r=3", model=siglip, restore_length=False)
    assert "the head of this model reads patch tokens" in record.notes[0]


def test_shared_options_go_to_the_methods_that_have_them(run):
    record = run("pitome", "tome", "pitome:ratio=0.6", ratio=0.8, r="3,2")
    assert [each.name for each in record.results] == ["pitome ratio=0.8", "tome r=3,2", "pitome ratio=0.6"]


def test_pictures_follow_every_patch(run):
    record = run("tome:r=3", "norm:ratio=0.7")
    assert len(record.pictures) == 2
    merged, dropped = record.pictures[0].panels
    assert (record.pictures[0].rows, record.pictures[0].columns) == (4, 4)
    assert len(set(merged.places)) == 4
    assert min(merged.places) >= 0
    assert dropped.places.count(-1) == 16 - len(set(dropped.places) - {-1})


def test_every_layer_has_its_own_picture_where_it_changed_something(run):
    every = run("tome:r=[3,0,2]", every_layer=True)
    assert [panel.layer for panel in every.pictures[0].panels] == [1, 3]
    assert [len(set(panel.places)) for panel in every.pictures[0].panels] == [13, 11]


def test_a_picture_of_nothing_done_shows_every_patch(run):
    (panel,) = run("tome:r=0").pictures[0].panels
    assert len(set(panel.places)) == 16


def test_a_sweep_puts_all_methods_at_the_same_flops(run):
    record = run(sweep=True, pictures=1)
    assert [name for name, _ in record.findings] == list(REDUCERS)
    counts = {
        method: [each.token_counts for each in record.results if each.method == method]
        for method in ("tome", "pitome", "random", "norm", "class-attention")
    }
    assert all(each == counts["tome"] for each in counts.values())
    shares = [each.flops / record.unpatched.flops for each in record.results if each.method == "tome"]
    assert shares == pytest.approx(SHARES, abs=0.1)
    assert len(record.pictures[0].panels) == len(REDUCERS)


def test_a_sweep_leaves_out_what_does_not_fit_the_model_and_says_so(run, desk):
    siglip = tower(desk, "siglip", SiglipVisionModel(SiglipVisionConfig(**SIZE, **IMAGE)))
    record = run(sweep=True, model=siglip, pictures=0)
    assert {each.method for each in record.results} == set(REDUCERS) - {"class-attention", "diffrate"}
    assert any(
        "class-attention is left out: SiglipVisionModel has no class token" in note for note in record.notes
    )
    with pytest.raises(UserError, match="has no class token"):
        run("class-attention", sweep=True, model=siglip)


def test_a_single_image_has_no_agreement_worth_telling(run):
    (result,) = run("tome:r=3", limit=1).results
    assert result.agreement is None


def test_a_damaged_image_is_noted_and_left_out(run, desk, tmp_path):
    write_images(tmp_path / "images", 4)
    (tmp_path / "images" / "a" / "2.jpg").write_text("no image")
    record = run("tome:r=3", images=tmp_path / "images")
    assert record.number_of_images == 3
    assert record.notes == ["left out, as they cannot be read as images: a/2.jpg."]


def test_a_damaged_image_uses_up_neither_the_limit_nor_the_pictures(run, tmp_path):
    write_images(tmp_path / "images", 6)
    for name in ("a/0.png", "a/2.jpg"):
        (tmp_path / "images" / name).write_text("no image")
    record = run("tome:r=3", images=tmp_path / "images", limit=4, pictures=4)
    assert (record.number_of_images, len(record.pictures)) == (4, 4)
    assert record.notes == ["left out, as they cannot be read as images: a/0.png, a/2.jpg."]


def test_a_damaged_image_uses_up_no_picture_where_all_are_looked_at(run, tmp_path):
    write_images(tmp_path / "images", 4)
    (tmp_path / "images" / "a" / "0.png").write_text("no image")
    record = run("tome:r=3", images=tmp_path / "images", pictures=2)
    assert (record.number_of_images, len(record.pictures)) == (3, 2)


@pytest.mark.parametrize("limit", [None, 2])
def test_a_sweep_over_one_image_that_can_be_read_is_refused(run, tmp_path, monkeypatch, limit):
    monkeypatch.setattr("tokenry.models.image_encoders.load_image_encoder", None)
    write_images(tmp_path / "images", 2)
    (tmp_path / "images" / "a" / "0.png").write_text("no image")
    with pytest.raises(UserError, match="give at least two images"):
        run(images=tmp_path / "images", sweep=True, limit=limit)


def test_the_share_done_never_falls(desk):
    told = []
    plan = Plan(str(desk / "model"), desk / "images", ("tome:r=3",), rounds=2, batch_size=4)
    vision.run(plan, lambda what, share: told.append(share))
    assert told == sorted(told)
    assert told[0] == 0.0
    assert told[-1] <= 1.0


@pytest.mark.parametrize(
    ("methods", "options", "words"),
    [
        (["pitone"], {}, "there is no method 'pitone' (did you mean 'pitome'?)"),
        ([], {"ratio": 0.2}, "ratio must be in [0.5, 1], got 0.2"),
        (["tome"], {"r": "-2"}, "r must not be negative"),
        (["tome"], {"ratio": 0.9}, "ratio=0.9 is given, but tome has no such option"),
        (["tome", "zero-tprune"], {"ratio": 0.9}, "none of tome, zero-tprune has no such option"),
        (["tome", "tome"], {}, "tome is asked for twice"),
        (["diffrate"], {"schedule": "none.json"}, "none.json does not exist"),
        ([], {"sweep": True, "ratio": 0.9}, "a sweep sets itself how much each method reduces: leave ratio=0.9 out"),
        (["pitome:ratio=0.9"], {"sweep": True}, "ratio is given twice"),
        ([], {"sweep": True, "limit": 1}, "give at least two images"),
        ([], {"mean": "a,b,c", "std": "1,1,1"}, "mean cannot be ['a', 'b', 'c']"),
        ([], {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ([], {"limit": 0}, "limit must be at least 1, got 0"),
        ([], {"rounds": 1}, "rounds must be at least 2, got 1"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_said_before_the_model_is_loaded(run, monkeypatch, methods, options, words):
    monkeypatch.setattr("tokenry.models.image_encoders.load_image_encoder", None)
    with pytest.raises(UserError) as refused:
        run(*methods, **options)
    assert words in str(refused.value)


def test_a_schedule_for_another_depth_is_refused(run):
    with pytest.raises(UserError, match="r lists 5 layers, but the model has 4"):
        run("tome:r=[1,1,1,1,1]")


def test_a_stopped_run_leaves_nothing_behind(desk, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "take_turns", stop)
    given = ("--model", desk / "model", "--images", desk / "images", "--output", tmp_path / "out")
    assert tokenry("compress vision", *given).exit_code == 1
    assert not (tmp_path / "out").exists()


def test_a_new_reducer_is_one_class_and_takes_part_in_a_sweep(run, desk, monkeypatch):
    monkeypatch.setattr(REDUCERS, "_entries", dict(REDUCERS._all()))

    class Every(LayerReducer):
        def reduce(self, hidden_states, tokens, attention):
            places = range(tokens.special, hidden_states.shape[1], 2)
            kept = torch.tensor([*range(tokens.special), *places]).expand(len(hidden_states), -1)
            return tokens.drop(hidden_states, MergePlan.keep(kept, hidden_states.shape[1]))

    @REDUCERS.register("half")
    @dataclass(frozen=True)
    class Half:
        layer: int = 0
        proportional_attention: bool = False

        @classmethod
        def at(cls, share, shape):
            layers, half = len(shape.costs), shape.tokens - (shape.tokens - shape.special) // 2
            seen = [[shape.tokens] * (layer + 1) + [half] * (layers - layer - 1) for layer in range(layers)]
            shares = [shape.share(counts, counts) for counts in seen]
            return {"layer": min(range(layers), key=lambda layer: abs(shares[layer] - share))}

        def layer_reducers(self, encoder):
            return [Every() if layer == self.layer else None for layer in range(len(encoder.layers))]

    check_reducer(Half(layer=1))
    (asked,) = run("half:layer=2").results
    assert (asked.options["layer"], asked.token_counts) == (2, [17, 17, 17, 9, 9])
    swept = run("half", "tome", sweep=True, pictures=0)
    assert [name for name, _ in swept.findings] == ["half", "tome"]
    refused = tokenry("compress vision", "--model", "m", "--images", desk, "--method", "half:layers=1")
    assert "half has no option 'layers' (did you mean 'layer'?)" in refused.stderr


def test_a_method_that_names_no_share_is_left_out_of_a_sweep(run, monkeypatch):
    monkeypatch.setattr(REDUCERS, "_entries", dict(REDUCERS._all()))

    @REDUCERS.register("still")
    @dataclass(frozen=True)
    class Still:
        proportional_attention: bool = False

        def layer_reducers(self, encoder):
            return [None] * len(encoder.layers)

    with pytest.raises(UserError, match="still has no `at"):
        run("still", sweep=True)
