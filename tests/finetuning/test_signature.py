"""An editor completes TRL's parameters, and ours, for `TokenWeighingTrainer`."""

import ast
import inspect

from trl import SFTTrainer

from tokenry.finetuning import TokenWeighingTrainer, trainer

OURS = ["weighing", "reference_model", "base_model", "history_cache", "record_signals"]


def declared():
    """The signature that type checkers read."""
    tree = ast.parse(inspect.getsource(trainer))
    (held,) = [
        node.body[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    return held.args


def test_the_signature_is_that_of_trl_and_then_ours():
    found = inspect.signature(TokenWeighingTrainer).parameters
    theirs = inspect.signature(SFTTrainer).parameters
    assert list(found) == [*theirs, *OURS]
    assert all(found[name] == theirs[name] for name in theirs)
    assert all(found[name].kind is inspect.Parameter.KEYWORD_ONLY for name in OURS)


def test_type_checkers_read_the_parameters_of_the_installed_trl():
    names = [argument.arg for argument in declared().args]
    theirs = list(inspect.signature(SFTTrainer.__init__).parameters)
    assert [name for name in names if name in theirs] == theirs
    assert [argument.arg for argument in declared().kwonlyargs] == OURS


def test_defaults_are_those_of_trl():
    arguments, theirs = declared(), inspect.signature(SFTTrainer.__init__).parameters
    named = [argument.arg for argument in arguments.args][-len(arguments.defaults) :]
    for name, default in zip(named, arguments.defaults, strict=True):
        assert name not in theirs or ast.literal_eval(default) == theirs[name].default
