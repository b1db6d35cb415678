"""Loads what is to be published as a stranger would, and uses it once. checks.py runs it in an interpreter of its own:

    python -I probe.py model|dataset|metric NAME [REVISION]

NAME is a folder, or with a REVISION a repository of the Hub. What goes wrong is said on stderr. Of config.json, the
keys of EmoLLM's own level must be declared; those of the foundation's config in it are transformers' matter.
"""

import dataclasses
import json
import logging
import os
import sys
from pathlib import Path


ROOMS = (
    "modeling_emollm", "dataset_scripts", "evaluation", "training", "train_sft", "model_cards", "benchmarks", "space",
)  # fmt: skip
# transformers writes these into every config
WRITTEN = {"auto_map", "model_type", "transformers_version"}
CASES = [
    {
        "task": "hate_detection",
        "source": "harmeme",
        "predictions": ["no", "yes", "yes", "", "no", "yes"],
        "references": ["no", "yes", "no", "no", "yes", "yes"],
        "probabilities": [[0.6, 0.4], [0.1, 0.9], [0.2, 0.8], [0.5, 0.5], [0.7, 0.3], [0.4, 0.6]],
    },
    {
        "task": "intent_understanding",
        "source": "intentonomy",
        "predictions": [["enjoy life"], [], ["be happy", "enjoy life"]],
        "references": [["enjoy life", "be happy"], ["love animals"], ["be happy"]],
    },
]


def try_model(name, revision):
    import torch
    from huggingface_hub import hf_hub_download
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    options = {"revision": revision, "trust_remote_code": True}
    model, info = AutoModelForImageTextToText.from_pretrained(
        name, use_safetensors=True, output_loading_info=True, **options
    )
    if problems := {key: sorted(map(str, found)) for key, found in info.items() if found}:
        raise ValueError(f"the weights are not those of the model: {problems}"[:500])
    if model.config.model_type == "emollm":
        path = hf_hub_download(name, "config.json", revision=revision) if revision else Path(name, "config.json")
        keys = json.loads(Path(path).read_text(encoding="utf-8"))
        declared = {field.name for field in dataclasses.fields(model.config)} | WRITTEN
        if unknown := sorted(set(keys) - declared):
            raise ValueError(f"config.json has {', '.join(unknown)}, which EmoLLMConfig does not know: leave it out")
    processor = AutoProcessor.from_pretrained(name, **options)
    content = [
        {"type": "image", "image": Image.new("RGB", (96, 64), "orange")},
        {"type": "text", "text": "Is it fun?"},
    ]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    inputs = inputs.to(dtype=model.dtype)
    with torch.inference_mode():
        tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    if tokens.shape[1] <= inputs["input_ids"].shape[1]:
        raise ValueError("the model generates nothing")


def try_dataset(name, revision):
    from datasets import get_dataset_config_names, load_dataset

    for config in get_dataset_config_names(name, revision=revision):
        for split, rows in load_dataset(name, config, revision=revision, streaming=True).items():
            if next(iter(rows), None) is None:
                raise ValueError(f"{config} has no row in {split}")


def try_metric(name, revision):
    import evaluate

    metric = evaluate.load(name, revision=revision)
    print(json.dumps([metric.compute(**case) for case in CASES], sort_keys=True))


def main(kind, name, revision=None):
    if sys.flags.isolated:  # an installed copy of this repository must not help
        sys.modules.update(dict.fromkeys(ROOMS))
    logging.disable(logging.WARNING)
    {"model": try_model, "dataset": try_dataset, "metric": try_metric}[kind](name, revision)
    sys.stdout.flush()
    os._exit(0)  # at once: threads that still read ahead of a stream abort an interpreter that ends


if __name__ == "__main__":
    main(*sys.argv[1:])
