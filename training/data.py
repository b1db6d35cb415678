"""The rows that are trained on: configs of EmoBench and other datasets, mixed."""

from datasets import Dataset, concatenate_datasets, get_dataset_config_names, load_dataset


COLUMNS = ["id", "task", "images", "rationale", "messages"]


def load_mixture(datasets: list[str], weights: list[float] | None, split: str, seed: int) -> Dataset:
    """
    One split of all given configs, one after the other.

    Args:
        datasets (`list[str]`): folders or Hub ids, each as `ID` (all its configs) or `ID:config,config`.
        split (`str`): e.g. `"train"`.

    Raises:
        `ValueError`: for a config that a dataset does not have, or one without the columns of EmoBench.
    """
    parts = []
    for dataset in datasets:
        name, _, chosen = dataset.partition(":")
        available = get_dataset_config_names(name)
        configs = chosen.split(",") if chosen else available
        if unknown := sorted(set(configs) - set(available)):
            raise ValueError(f"{name} has no config {', '.join(unknown)}; it has {', '.join(available)}.")
        for config in configs:
            rows = load_dataset(name, config, split=split)
            if missing := sorted(set(COLUMNS) - set(rows.column_names)):
                raise ValueError(f"{name}:{config} has no column {', '.join(missing)}; build it with dataset_scripts.")
            parts.append(rows.select_columns(COLUMNS))
    return concatenate_datasets(parts)
