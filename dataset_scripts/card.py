"""The dataset card of a build: YAML that `load_dataset` reads, and a page made from the build's own counts."""

from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCardData

from dataset_scripts.tasks import TASKS


ABOUT = {
    "drawn": "EmoBench-Drawn, cartoons drawn by a seeded program; neither text nor one picture alone tells the label "
    "(apache-2.0)",
    "ferplus": "FER+, faces with ten votes each, https://github.com/microsoft/FERPlus (votes MIT; the pictures are "
    "FER2013's, for research)",
    "harmeme": "HarMeme, https://github.com/di-dimitrov/mmf (no licence stated for the memes: research only, do not "
    "redistribute; offensive content); *somewhat* and *very harmful* are `yes`, a mapping of ours",
}

PAGE = """---
{metadata}
---

# EmoBench

Five tasks of emotion understanding in one format. This is a reconstruction: the choice of sources, the questions and
the label mappings are our own research design, not those of a published benchmark. Emotion labels say what onlookers
perceive, not what a person feels; do not use them to judge people.

```python
from datasets import load_dataset

dataset = load_dataset("DIR", "{config}", split="train")
```

Sources in this build (each keeps its own licence; pictures are embedded as their source has them):

{sources}

| config | version | source | split | read | kept | labels | left out |
|---|---|---|---|---|---|---|---|
{table}

`kept` counts samples; `emotion_recognition` asks each one twice, closed (with options) and open. Training pictures
that are pixel for pixel in a held-out split are left out, and so are validation pictures that are in the test split.
"""


def render_card(infos, stats):
    """The text of README.md.

    Args:
        infos (`dict[str, datasets.DatasetInfo]`): Of each config that was built, with its splits.
        stats (`dict`): config → source → split → counts, as `EmoBench.stats`.
    """
    metadata = DatasetCardData(
        pretty_name="EmoBench",
        language=["en"],
        license="apache-2.0" if {s for c in stats.values() for s in c} == {"drawn"} else "other",
        task_categories=["image-text-to-text"],
    )
    DatasetInfosDict(infos).to_dataset_card_data(metadata)
    MetadataConfigs(
        {
            name: {"data_files": [{"split": split, "path": f"{name}/{split}-*"} for split in info.splits]}
            for name, info in infos.items()
        }
    ).to_dataset_card_data(metadata)
    lines = []
    for name, by_source in stats.items():
        for source, by_split in by_source.items():
            for split, count in by_split.items():
                labels = ", ".join(f"{label} {number}" for label, number in count["labels"].items())
                skipped = ", ".join(f"{number} {reason}" for reason, number in count["skipped"].items())
                lines.append(
                    f"| {name} | {TASKS[name].version} | {source} | {split} | {count['read']} | {count['kept']} "
                    f"| {labels} | {skipped or '-'} |"
                )
    used = [source for source in ABOUT if any(source in by_source for by_source in stats.values())]
    return PAGE.format(
        metadata=metadata.to_yaml(),
        config=next(iter(stats)),
        sources="\n".join(f"- `{source}`: {ABOUT[source]}" for source in used),
        table="\n".join(lines),
    )
