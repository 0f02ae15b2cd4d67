"""The reference numbers of DiffRate, and the small ViT behind them."""

from transformers import ViTConfig, ViTForImageClassification

from tests.compression.vision.golden_vit import _renamed
from tests.golden import golden, golden_arrays

GOLDEN = golden("04-diffrate")
CLOSE = {"rtol": 1e-6, "atol": 1e-8}
FLOAT32 = {"rtol": 0, "atol": 1e-6}


def arrays(name):
    return golden_arrays("04-diffrate", name)


def cases(name):
    """The numbered cases of one file, their prefix taken off."""
    found = {}
    for key, value in arrays(name).items():
        case, _, rest = key.partition("_")
        found.setdefault(case, {})[rest] = value
    return list(found.values())


def golden_vit():
    golden = arrays("dev-model.npz")
    image, patch, width, depth, heads, classes, _ = golden["config"].tolist()
    model = ViTForImageClassification(
        ViTConfig(
            image_size=image,
            patch_size=patch,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=2 * width,
            num_labels=classes,
            layer_norm_eps=1e-6,
        )
    ).double()
    weights = {key[2:]: value for key, value in golden.items() if key.startswith("w:")}
    model.load_state_dict(dict(part for key, value in weights.items() for part in _renamed(key, value)))
    return model.eval(), golden
