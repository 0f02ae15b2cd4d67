import pytest

from tokenry.compression.reducer import REDUCERS, make_reducer
from tokenry.compression.vision.controls import RandomDrop
from tokenry.compression.vision.diffrate import DiffRate, Schedule
from tokenry.compression.vision.pitome import PiToMe
from tokenry.compression.vision.tome import ToMe
from tokenry.compression.vision.zero_tprune import ZeroTPrune, ZeroTPruneConfig
from tokenry.core.errors import UserError


@pytest.mark.parametrize(
    ("description", "options", "made"),
    [
        ("tome", {}, ToMe()),
        ("tome:r=13", {}, ToMe(13)),
        ("tome:r=[16,8]", {}, ToMe((16, 8))),
        ("tome", {"r": [13, -1.0]}, ToMe((13, -1.0))),
        ("pitome:energy=paper,variants=[core,bsm]", {"ratio": 0.8}, PiToMe(0.8, energy="paper", variants=("core", "bsm"))),
        ("zero-tprune:layers=[1],keep_rates=[0.9],r=[2],iterations=[3]", {}, ZeroTPrune(ZeroTPruneConfig((1,), (0.9,), (2,), (3,)))),
        ("random", {"ratio": 0.9}, RandomDrop(ratio=0.9)),
        ("diffrate:schedule=deit-small@2.9", {}, DiffRate(Schedule.load_published("deit-small", 2.9))),
    ],
)  # fmt: skip
def test_a_description_makes_the_method_it_says(description, options, made):
    assert make_reducer(description, **options) == made


def test_diffrate_reads_its_schedule_from_a_file(tmp_path):
    schedule = Schedule((17, 12), (15, 9))
    schedule.save(tmp_path / "schedule.json")
    assert make_reducer("diffrate", schedule=str(tmp_path / "schedule.json")) == DiffRate(schedule)


@pytest.mark.parametrize(
    ("description", "options", "words"),
    [
        ("pitone", {}, "there is no method 'pitone' (did you mean 'pitome'?); there are tome, pitome"),
        ("pitome:ration=0.9", {}, "pitome has no option 'ration' (did you mean 'ratio'?)"),
        ("tome", {"ratio": 0.9}, "tome has no option 'ratio'; it has proportional_attention, r."),
        ("tome:13", {}, "'13' in 'tome:13' is not option=value"),
        ("tome:r=13", {"r": 8}, "r is given twice"),
        ("tome:r=many", {}, "tome:r cannot be 'many'"),
        ("tome:r=-1", {}, "r must not be negative, got -1"),
        ("pitome:ratio=0.3", {}, "ratio must be in [0.5, 1], got 0.3"),
        ("pitome:energy=loud", {}, "pitome:energy cannot be 'loud'"),
        ("random", {}, "give exactly one of r (tokens to drop per layer)"),
        ("diffrate", {}, "diffrate needs a schedule"),
        ("diffrate:schedule=none.json", {}, "none.json does not exist"),
        ("diffrate:schedule=deit-small@9", {}, "there is no published schedule for deit-small at 9.0 GFLOPs"),
        ("zero-tprune:r=[1]", {}, "must have one entry per pruning layer"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_sentence(description, options, words):
    with pytest.raises(UserError) as refused:
        make_reducer(description, **options)
    assert words in str(refused.value)


def test_every_method_tells_the_kinds_of_its_options():
    assert all(method.kinds() for method in REDUCERS.values())
