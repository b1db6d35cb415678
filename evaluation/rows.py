"""The rows that a model is asked, and which of them are asked together."""

from collections.abc import Iterator

from datasets import Dataset, get_dataset_config_names, load_dataset

from modeling_emollm.emoprompt import EMOTION_TASKS

from .predictions import draw_samples


def load_rows(
    dataset: str, tasks: list[str], split: str, limit: int | None, seed: int
) -> tuple[dict[str, Dataset], dict[str, int]]:
    """
    The split's rows by task. `limit` keeps as many samples of each task, the same for its closed and open question.
    Rows with several labels are left out, since there is no score for them yet, and so is a task that has no others;
    how many is the second result.

    Raises:
        `ValueError`: if the dataset lacks a task or the split.
    """
    names = get_dataset_config_names(dataset)
    present = [task for task in EMOTION_TASKS if task in names]
    wanted = present if tasks == ["all"] else tasks
    missing = [task for task in wanted if task not in present]
    if missing or not wanted:
        raise ValueError(
            f"{dataset} has no task {', '.join(missing) or 'of EmoBench'}; it has {', '.join(names)}. "
            "Build it with `python -m dataset_scripts.build_emobench`."
        )
    rows, several = {}, {}
    for task in wanted:
        splits = load_dataset(dataset, task)
        if split not in splits:
            raise ValueError(f"{task} of {dataset} has no split {split!r}; it has {', '.join(splits)}.")
        single = [i for i, answers in enumerate(splits[split]["answers"]) if len(answers) == 1]
        if len(single) < len(splits[split]):
            several[task] = len(splits[split]) - len(single)
        if not single:
            continue
        rows[task] = splits[split].select(single)
        if limit is not None:
            samples = [row_id.split("#")[0] for row_id in rows[task]["id"]]
            kept = draw_samples(samples, limit, seed)
            rows[task] = rows[task].select([i for i, sample in enumerate(samples) if sample in kept])
    return rows, several


def batches(rows: Dataset, done: set[str], batch_size: int) -> Iterator[list[int]]:
    """
    Indices of rows not yet done, one setting, label set and number of images a batch; like lengths together, the
    longest first, so that what does not fit in memory fails at once.
    """
    groups: dict[tuple, list[tuple[int, int]]] = {}
    columns = rows.select_columns(["id", "setting", "choices", "instruction", "messages"])
    for i, row in enumerate(columns):
        if row["id"] not in done:
            images = sum(item["type"] == "image" for item in row["messages"][0]["content"])
            if not images:
                raise ValueError(f"{row['id']} is a clip without frames: build the dataset again with --video frames.")
            key = images, row["setting"], tuple(row["choices"])
            groups.setdefault(key, []).append((len(row["instruction"]), i))
    for key in sorted(groups, reverse=True):
        indices = [i for _, i in sorted(groups[key], reverse=True)]
        yield from (indices[start : start + batch_size] for start in range(0, len(indices), batch_size))
