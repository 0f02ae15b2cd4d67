"""The small ViT behind the reference numbers of ToMe and PiToMe, its weights renamed from timm's to transformers'."""

from transformers import ViTConfig, ViTForImageClassification

from tests.golden import golden, golden_arrays

GOLDEN = golden("32-pitome")
CLOSE = {"rtol": 1e-7, "atol": 1e-10}
RENAMED = (
    ("patch_embed.proj", "vit.embeddings.patch_embeddings.projection"),
    ("cls_token", "vit.embeddings.cls_token"),
    ("pos_embed", "vit.embeddings.position_embeddings"),
    ("blocks", "vit.layers"),
    ("norm1", "layernorm_before"),
    ("norm2", "layernorm_after"),
    ("attn.proj", "attention.o_proj"),
    ("head", "classifier"),
)


def arrays(name):
    return golden_arrays("32-pitome", name)


def cases(name, letter="c"):
    """The numbered cases of one file, their prefix taken off."""
    found = {}
    for key, value in arrays(name).items():
        case, _, rest = key.partition("_")
        if case[0] == letter and case[1:].isdigit():
            found.setdefault(case, {})[rest] = value
    return list(found.values())


def golden_vit():
    golden = arrays("dev-model.npz")
    image, patch, width, depth, heads, classes = golden["config"].tolist()
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
    model.load_state_dict(
        dict(
            part for key, value in golden.items() if key.startswith("w:") for part in _renamed(key[2:], value)
        )
    )
    return model.eval(), golden


def _renamed(name, value):
    for old, new in RENAMED:
        name = name.replace(old, new)
    if ".attn.qkv." in name:
        for letter, part in zip("qkv", value.chunk(3), strict=True):
            yield name.replace("attn.qkv", f"attention.{letter}_proj"), part
    else:
        yield ("vit.layernorm" + name[4:] if name.startswith("norm.") else name), value
