"""The EmoBench builder: five configs from any of the sources, with every left-out record counted.

- Name: EmoBench
- Dataset, paper, licence, how to obtain: see each source's reader
- Version: 1.0.0

Loading scripts are no longer run by `load_dataset`, so the class is imported and run:

    builder = EmoBench(config_name="hate_detection", sources={"harmeme": "PATH"})
    builder.download_and_prepare(DIR, file_format="parquet")
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import datasets

from dataset_scripts import drawn, ferplus, harmeme
from dataset_scripts.media import MediaError, pixel_digest
from dataset_scripts.sample import EmoSample, Skipped
from dataset_scripts.tasks import TASKS, render_instruction, render_messages


READERS = {"ferplus": ferplus, "harmeme": harmeme}
SOURCES = ("drawn", *READERS)
# held-out pictures are read first, so that their duplicates are known when the training pictures come
SPLITS = ("test", "validation", "train")
DUPLICATE = "duplicate of a held-out picture"

FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "source": datasets.Value("string"),
        "task": datasets.Value("string"),
        "setting": datasets.Value("string"),
        "images": datasets.List(datasets.Image()),
        "context": datasets.Value("string"),
        "instruction": datasets.Value("string"),
        "choices": datasets.List(datasets.Value("string")),
        "answer": datasets.Value("string"),
        "label_distribution": datasets.List(datasets.Value("float32")),
        "attributes": datasets.Json(),
        "licence": datasets.Value("string"),
        "messages": datasets.List(datasets.Json()),
    }
)


def check_sources(sources):
    """Refuse sources that cannot be read.

    Args:
        sources (`dict[str, str | None]`): Name to folder; `None` for `drawn`, which is computed.

    Raises:
        `ValueError`: If a name is unknown, or a folder is missing, superfluous or does not hold the source.
    """
    for name, folder in sources.items():
        if name not in SOURCES:
            raise ValueError(f"unknown source {name!r}: choose from {', '.join(SOURCES)}")
        if name == "drawn":
            if folder is not None:
                raise ValueError(f"drawn is computed, it takes no path (got {folder!r}): write --source drawn")
            continue
        if not folder:
            raise ValueError(f"{name} needs a path: write --source {name}=PATH. {READERS[name].HOW_TO_OBTAIN}")
        if not Path(folder).is_dir():
            raise ValueError(f"{name}: there is no folder {folder}. {READERS[name].HOW_TO_OBTAIN}")
        READERS[name].splits(Path(folder))


@dataclass
class EmoBenchConfig(datasets.BuilderConfig):
    """What to build.

    Args:
        sources (`dict[str, str | None]`): Name to folder; `None` for `drawn`.
        seed (`int`): Seed of the drawings.
        drawn_size (`int`): Drawn training samples of this task, a multiple of 16.
    """

    sources: dict[str, str | None] = field(default_factory=lambda: {"drawn": None})
    seed: int = 0
    drawn_size: int = drawn.SPLIT_SIZES["train"]


class EmoBench(datasets.GeneratorBasedBuilder):
    """One config of EmoBench; after a build `stats[source][split]` counts what was read, kept and skipped."""

    BUILDER_CONFIG_CLASS = EmoBenchConfig
    BUILDER_CONFIGS = [EmoBenchConfig(name=task.name, version=task.version) for task in TASKS.values()]

    def _info(self):
        return datasets.DatasetInfo(features=FEATURES)

    def _split_generators(self, dl_manager):
        self.stats = {}
        self.held_out = set()  # pixel digests of the splits read so far, all frames of a clip as one
        check_sources(self.config.sources)
        sources = {name: path for name, path in self.config.sources.items() if name in TASKS[self.config.name].sources}
        found = {
            name: drawn.SPLIT_SIZES if name == "drawn" else READERS[name].splits(Path(path))
            for name, path in sources.items()
        }
        generators = []
        for split in SPLITS:
            names = [name for name in sources if split in found[name]]
            if names:
                generators.append(datasets.SplitGenerator(name=split, gen_kwargs={"split": split, "sources": names}))
        return generators

    def _read(self, source, split):
        if source != "drawn":
            return READERS[source].read(Path(self.config.sources[source]), split)
        size = self.config.drawn_size if split == "train" else drawn.SPLIT_SIZES[split]
        return drawn.read(self.config.name, split, size, self.config.seed)

    def _generate_examples(self, split, sources):
        digests = set()
        for source in sources:
            read, kept, skipped, labels = 0, 0, Counter(), Counter()
            for sample in self._read(source, split):
                read += 1
                reason, digest = self._check(sample)
                if reason:
                    skipped[reason] += 1
                    continue
                digests.add(digest)
                kept += 1
                labels[sample.answer] += 1
                yield from render_rows(sample)
            self.stats.setdefault(source, {})[split] = {
                "read": read,
                "kept": kept,
                "skipped": dict(sorted(skipped.items())),
                "labels": {label: labels[label] for label in TASKS[self.config.name].label_sets[source]},
            }
        self.held_out |= digests

    def _check(self, sample: EmoSample | Skipped):
        """Why a sample is left out or `None`, and the digest of its pixels."""
        if isinstance(sample, Skipped):
            return sample.reason, None
        try:
            digest = tuple(pixel_digest(image) for image in sample.images)
        except MediaError as error:
            return str(error), None
        return (DUPLICATE if digest in self.held_out else None), digest


def render_rows(sample):
    """Yield key and row of a sample: one closed question, and an open one where its task is also asked openly."""
    settings = ("closed", "open") if TASKS[sample.task].open_questions else ("closed",)
    for setting in settings:
        identifier = f"{sample.id}#{setting}" if len(settings) > 1 else sample.id
        yield (
            identifier,
            {
                "id": identifier,
                "source": sample.source,
                "task": sample.task,
                "setting": setting,
                "images": [{"bytes": image, "path": None} for image in sample.images],
                "context": sample.context,
                "instruction": render_instruction(sample, setting),
                "choices": list(sample.choices),
                "answer": sample.answer,
                "label_distribution": list(sample.label_distribution),
                "attributes": sample.attributes,
                "licence": sample.licence,
                "messages": render_messages(sample, setting),
            },
        )
