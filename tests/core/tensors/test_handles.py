import copy
from functools import partial

import pytest
import torch
from torch import nn

from tokenry.core.tensors.handles import Handle, replaced


class Doubling(Handle):
    """Doubles what a linear layer gives, and says so."""

    def __init__(self, model):
        super().__init__(model)
        self._on_removal(
            model.register_forward_hook(self._double).remove,
            replaced(model, "extra_repr", partial(str, "doubled")),
        )

    def _double(self, module, arguments, output):
        return 2 * output

    def _method(self):
        return "doubling"

    def _details(self):
        yield "every output"


@pytest.fixture
def model():
    return nn.Linear(2, 1)


def test_a_handle_says_what_is_on_which_model(model):
    handle = Doubling(model)
    assert repr(handle) == "<Doubling: doubling on Linear, every output>"
    handle.remove()
    assert repr(handle) == "<Doubling: doubling removed from Linear>"


def test_removing_restores_the_model_and_a_second_time_does_nothing(model):
    x, before = torch.ones(1, 2), dict(vars(model))
    plain = model(x)
    handle = Doubling(model)
    assert torch.equal(model(x), 2 * plain)
    assert model.extra_repr() == "doubled"
    handle.remove()
    handle.remove()
    assert torch.equal(model(x), plain)
    assert vars(model) == before
    assert not model._forward_hooks


def test_an_error_inside_the_context_restores_the_model(model):
    with pytest.raises(ZeroDivisionError), Doubling(model):
        1 / 0  # noqa: B018
    assert not model._forward_hooks


def test_what_was_put_on_last_comes_off_first(model):
    class Twice(Doubling):
        def __init__(self, model):
            super().__init__(model)
            self._on_removal(replaced(model, "extra_repr", partial(str, "twice")))

    with Twice(model):
        assert model.extra_repr() == "twice"
    assert "extra_repr" not in vars(model)


def test_what_stood_on_the_instance_itself_comes_back(model):
    own = model.extra_repr = partial(str, "own")
    with Doubling(model):
        assert model.extra_repr() == "doubled"
    assert model.extra_repr is own


def test_an_attribute_that_somebody_else_has_replaced_since_is_left_to_them(model):
    restore = replaced(model, "extra_repr", partial(str, "ours"))
    theirs = partial(str, "theirs")
    model.extra_repr = theirs
    restore()
    assert model.extra_repr is theirs


def test_a_copy_of_model_and_handle_is_a_pair_of_its_own(model):
    x = torch.ones(1, 2)
    plain = model(x)
    handle = Doubling(model)
    twin, copied = copy.deepcopy((model, handle))
    copied.remove()
    assert torch.equal(twin(x), plain)
    assert "extra_repr" not in vars(twin)
    assert torch.equal(model(x), 2 * plain)
