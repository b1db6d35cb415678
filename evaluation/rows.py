"""The rows that a model is asked, and which of them are asked together."""

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow.compute as pc
from datasets import Dataset, List, Value, concatenate_datasets, get_dataset_config_names, load_dataset

from modeling_emollm.emoprompt import EMOTION_TASKS

from .groups import allows_several, people_of
from .pictures import undecoded
from .predictions import draw_samples


MODES = (None, "answer", "reason")  # of EmoPrompt
COPIED = ("id", "source", "task", "setting", "split", "answer", "answers", "choices", "label_distribution", "groups")
ASKED = ("messages", "instruction", "context", "turns")


def sample_of(row_id: str) -> str:
    """The closed and the open question about a picture are rows of one sample."""
    return row_id.split("#")[0]


def draw_rows(rows: Dataset, split: str, limit: int | None, seed: int) -> Dataset:
    rows = rows.add_column("split", [split] * len(rows))
    if limit is not None:
        samples = list(map(sample_of, rows["id"]))
        kept = draw_samples(samples, limit, seed)
        rows = rows.select([i for i, sample in enumerate(samples) if sample in kept])
    attributes = rows["attributes"] if "attributes" in rows.column_names else [{}] * len(rows)
    groups = [people_of(*row) for row in zip(rows["task"], rows["source"], attributes, strict=True)]
    return rows.add_column("groups", groups, feature=List(List(Value("string"))))


def load_rows(
    dataset: str, tasks: list[str], split: str, limit: int | None, seed: int, revision: str | None = None
) -> dict[str, Dataset]:
    """
    The split's rows by task, with their pictures as they are stored and the columns `split` and `groups`, of people
    (see [`people_of`]); for sources with several labels also the validation rows, on which the threshold is chosen
    from which a label counts as given.

    Args:
        dataset (`str`): folder that `dataset_scripts.build_emobench` made, or Hub id.
        tasks (`list[str]`): some of the five, or `["all"]` for those that are there.
        split (`str`): of each task.
        limit (`int`, *optional*): samples of each task, the same for its closed and open question.
        seed (`int`): of their draw.
        revision (`str`, *optional*): branch, tag or commit of the Hub id.

    Raises:
        `ValueError`: if the dataset lacks a task, the split or a column.
    """
    names = get_dataset_config_names(dataset, revision=revision)
    present = [task for task in EMOTION_TASKS if task in names]
    wanted = present if tasks == ["all"] else tasks
    missing = [task for task in wanted if task not in present]
    build = "Build it with `python -m dataset_scripts.build_emobench`."
    if missing or not wanted:
        raise ValueError(
            f"{dataset} has no task {', '.join(missing) or 'of EmoBench'}; it has {', '.join(names)}. {build}"
        )
    rows = {}
    for task in wanted:
        splits = load_dataset(dataset, task, revision=revision)
        if split not in splits:
            raise ValueError(f"{task} of {dataset} has no split {split!r}; it has {', '.join(splits)}.")
        table = splits[split].data
        if absent := [
            name
            for name in (*COPIED, *ASKED, "images")
            if name not in ("split", "groups") and (name not in table.column_names or table[name].null_count)
        ]:
            raise ValueError(f"{task} of {dataset} has rows without {', '.join(absent)}. {build}")
        stored = pc.struct_field(pc.list_flatten(table["images"]), "bytes")
        if stored.null_count:
            raise ValueError(
                f"{task} of {dataset} has {stored.null_count} pictures that are paths to files, which may be any of "
                f"this machine. {build}"
            )
        parts = [draw_rows(undecoded(splits[split]), split, limit, seed)]
        several = {source for source in set(parts[0]["source"]) if allows_several({"task": task, "source": source})}
        if several and split != "validation" and "validation" in splits:
            sources = splits["validation"]["source"]
            held_out = undecoded(splits["validation"])
            held_out = held_out.select([i for i, source in enumerate(sources) if source in several])
            parts.append(draw_rows(held_out, "validation", limit, seed))
        rows[task] = concatenate_datasets(parts)
    return rows


@dataclass(frozen=True)
class Question:
    """
    What is asked about the samples of a batch.

    Args:
        setting (`str`): `"closed"` or `"open"`.
        emoprompt (`str` or `None`): its mode.
        greedy (`bool`): whether an answer is generated, too, where labels are scored.
    """

    setting: str
    emoprompt: str | None
    greedy: bool


@dataclass(frozen=True)
class Batch:
    """
    Samples of one source with the same questions, number of pictures and label set.

    Args:
        rows (`Dataset`): of one task.
        questions (`tuple[Question]`): Q of them.
        places (`list[tuple[int]]`): for each sample its rows, one for each question.
    """

    rows: Dataset
    questions: tuple[Question, ...]
    places: list[tuple[int, ...]]


def make_batches(
    rows: Dataset,
    modes: Iterable[str | None],
    batch_size: int,
    done: set[tuple[str, str | None]] = frozenset(),
    greedy: set[str] = frozenset(),
) -> list[Batch]:
    """
    What is not done yet, like lengths together, the longest first, so that what does not fit in memory fails at once.

    Args:
        rows (`Dataset`): of one task, as [`load_rows`] gives them.
        modes (`Iterable`): of EmoPrompt, in each of which everything is asked.
        batch_size (`int`): samples.
        done (`set`, *optional*): ids and modes that are answered already.
        greedy (`set[str]`, *optional*): samples whose closed questions are also answered by generation.

    Raises:
        `ValueError`: for a clip that is stored without frames, and a label set of one.
    """
    samples: dict[tuple, list[int]] = {}
    columns = rows.select_columns(["id", "source", "setting", "choices", "instruction", "messages"])
    facts = []
    for place, row in enumerate(columns):
        images = sum(item["type"] == "image" for item in row["messages"][0]["content"])
        if not images:
            raise ValueError(f"{row['id']} is a clip without frames: build the dataset again with --video frames.")
        if len(set(row["choices"])) < 2:
            raise ValueError(f"{row['id']} has the label set {row['choices']}; there must be two to choose from.")
        samples.setdefault(sample_of(row["id"]), []).append(place)
        kind = images, row["source"], tuple(row["choices"])
        facts.append((kind, row["setting"], len(row["instruction"]), row["id"]))
    groups: dict[tuple, list[tuple]] = {}
    for name, places in samples.items():
        todo = [
            (place, Question(facts[place][1], mode, name in greedy and facts[place][1] == "closed"))
            for mode in modes
            for place in places
            if (facts[place][-1], mode) not in done
        ]
        if todo:
            kept, questions = zip(*todo, strict=True)
            longest = max(facts[place][2] for place in places)
            groups.setdefault((facts[places[0]][0], questions), []).append((longest, kept))
    batches = []
    for (_, questions), found in sorted(groups.items(), key=lambda group: (-group[0][0][0], repr(group[0]))):
        places = [kept for _, kept in sorted(found, reverse=True)]
        batches += [Batch(rows, questions, places[i : i + batch_size]) for i in range(0, len(places), batch_size)]
    return batches
