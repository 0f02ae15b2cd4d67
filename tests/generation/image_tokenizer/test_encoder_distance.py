import torch

from tests.tiny.images import write_classifier
from tokenry.generation.image_tokenizer.encoder_distance import EncoderDistance


def test_the_distance_is_none_to_itself_above_it_to_others_and_leads_back(tmp_path):
    distance = EncoderDistance(str(write_classifier(tmp_path)))
    made, real = torch.rand(2, 2, 3, 40, 40).mul(2).sub(1)
    made.requires_grad_(True)
    assert distance(real, real).detach().abs() < 1e-6
    (apart := distance(made, real)).backward()
    assert apart.detach() > 1e-4
    assert made.grad.abs().max() > 0
