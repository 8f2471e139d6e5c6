"""A CLIP model of random weights as transformers stores one, made without a download.

sentence-transformers and embetter read such a folder. The vocabulary has four words:
only images are embedded.
"""

import json
from pathlib import Path

VOCABULARY = ("<|startoftext|>", "<|endoftext|>", "a", "a</w>")


def save_random_clip(folder, vision):
    """Write a model, a processor and a tokenizer.

    Parameters
    ----------
    folder : path
    vision : dict
        open_clip's description of a vision transformer, with "embed_dim".
    """
    import torch
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    width, size = vision["width"], vision["image_size"]
    config = CLIPConfig(
        vision_config={
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": width // vision.get("head_width", 64),
            "image_size": size,
            "patch_size": vision["patch_size"],
            "projection_dim": vision["embed_dim"],
        },
        text_config={"num_hidden_layers": 1, "projection_dim": vision["embed_dim"]},
        projection_dim=vision["embed_dim"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    images = CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}
    )
    CLIPProcessor(image_processor=images, tokenizer=_tokenizer(folder)).save_pretrained(
        folder
    )


def _tokenizer(folder):
    from transformers import CLIPTokenizer

    vocabulary, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
    numbers = {word: number for number, word in enumerate(VOCABULARY)}
    vocabulary.write_text(json.dumps(numbers))
    merges.write_text("#version: 0.2\n")
    return CLIPTokenizer(vocab=str(vocabulary), merges=str(merges))
