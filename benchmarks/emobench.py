"""
What building and reading EmoBench costs: ratios measured in turns in one run, on fake sources (see fake_sources.py).

python -m benchmarks.emobench --part write   # to the limit: read every picture once, write all to one file, sync it
python -m benchmarks.emobench --part read    # rows a second of a built config, to those of `imagefolder`
python -m benchmarks.emobench --part clips   # rows a second with stored frames, to those with clips that are decoded
python -m benchmarks.emobench --part scale   # all sources at their published sizes; fails if that takes above 1 GiB

Prints one JSON. What it makes, up to 8 GB below --folder, is removed at the end; memory must hold the sources, cached.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

import av
import datasets
import psutil
import pyarrow.parquet as pq
from datasets import load_dataset
from PIL import Image

from dataset_scripts import pipeline
from dataset_scripts.features import FEATURES
from dataset_scripts.readers import READERS
from dataset_scripts.rows import render_rows
from dataset_scripts.sample import EmoSample
from dataset_scripts.shards import FRAME_SIDE
from dataset_scripts.tasks import render_messages


SAMPLES, MEMORY, SHARD = 287_000, 1024, 500  # of all of EmoBench: samples at least, MiB and MB at most


def fake(root: Path, names: tuple[str, ...], scale: float, *options: str) -> dict[str, str]:
    """Makes fake sources below `root`; returns name to folder."""
    command = [sys.executable, "-m", "benchmarks.fake_sources", "--output", str(root), "--scale", str(scale)]
    subprocess.run([*command, "--names", *names, *options], check=True)
    return {name: str(root / name) for name in names}


def fake_pictures(root: Path, names: tuple[str, ...], pictures: int) -> dict[str, str]:
    published = sum(sum(READERS[name].SOURCE.published.values()) for name in names)
    return fake(root, names, pictures / published, "--picture-bytes", "30000")


def in_turns(rounds: int, jobs: dict, output: Path | None = None) -> dict[str, float]:
    """Median seconds of each job, and of each step of a build among them; a job's `output` is removed after it."""
    seconds, run = defaultdict(list), pipeline.Workers.run

    def timed(self, function, *rest):
        begun = time.perf_counter()
        run(self, function, *rest)
        steps[function.__name__] += time.perf_counter() - begun

    pipeline.Workers.run = timed
    for _ in range(rounds):
        for name, job in jobs.items():
            os.sync()  # nobody pays for what the one before left to write
            steps, start = defaultdict(float), time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - start)
            for step, value in steps.items():
                seconds[f"{name}: {step}"].append(value)
            if output:
                shutil.rmtree(output)
    pipeline.Workers.run = run
    return {name: statistics.median(values) for name, values in seconds.items()}


class Stock(datasets.GeneratorBasedBuilder):
    """The same rows by the stock way: examples are yielded, `datasets` writes Parquet."""

    def __init__(self, samples: dict[str, list[tuple[str, EmoSample]]], **kwargs):
        self.samples = samples
        super().__init__(**kwargs)

    def _info(self):
        return datasets.DatasetInfo(features=FEATURES)

    def _split_generators(self, dl_manager):
        return [datasets.SplitGenerator(split, {"samples": samples}) for split, samples in self.samples.items()]

    def _generate_examples(self, samples):
        for number, (file, sample) in enumerate(samples):
            data = Path(file).read_bytes()
            for row in render_rows(sample, len(data), 0):
                row |= {"images": [{"bytes": data, "path": None}], "video": None, "attributes": sample.attributes}
                row["messages"] = render_messages(sample, row["setting"], 1)
                yield f"{number}-{row['setting']}", {name: row[name] for name in FEATURES}


def write(folder: Path, rounds: int, pictures: int) -> dict:
    """Of pictures that are one row each, and of those that are two."""
    cases = {"one_row_a_picture": ("mmsd2",), "two_rows_a_picture": ("emoset", "caers", "ferplus")}
    return {case: write_task(folder / case, rounds, names, pictures) for case, names in cases.items()}


def write_task(folder: Path, rounds: int, names: tuple[str, ...], pictures: int) -> dict:
    sources, output = fake_pictures(folder / "fake", names, pictures), folder / "output"
    task, samples = READERS[names[0]].SOURCE.task, defaultdict(list)
    for name, root in sources.items():
        for split in READERS[name].splits(Path(root)):
            for sample in READERS[name].read(Path(root), split):
                if isinstance(sample, EmoSample) and Path(root, sample.images[0]).is_file():
                    samples[split].append((os.path.join(root, sample.images[0]), sample))
    files = [file for found in samples.values() for file, _ in found]

    def limit():
        output.mkdir()
        with (output / "all").open("wb", buffering=0) as target:
            for file in files:
                with open(file, "rb", buffering=0) as source:
                    target.write(source.read())
            os.fsync(target.fileno())

    def stock(num_proc):  # is given the samples, and does not sync
        builder = Stock(samples, cache_dir=str(folder / "cache"))
        builder.download_and_prepare(str(output), file_format="parquet", num_proc=num_proc)

    jobs = {"limit": limit}
    for number in (1, 2):
        jobs[f"build_{number}"] = partial(pipeline.build, sources, output, [task], num_proc=number)
        jobs[f"stock_{number}"] = partial(stock, number if number > 1 else None)
    size = sum(len(Path(file).read_bytes()) for file in files)  # and now all of them are cached
    seconds = in_turns(rounds, jobs, output)
    shutil.rmtree(folder)
    return {
        "pictures": len(files),
        "mean_bytes": round(size / len(files)),
        "limit_mb_a_second": round(size / seconds["limit"] / 1e6),
        "of_the_limit": {name: round(seconds["limit"] / value, 3) for name, value in seconds.items()},
    }


def read(folder: Path, rounds: int, pictures: int) -> dict:
    """Of HumorDB's training split, whose folders are its labels, against `imagefolder` over the same files."""
    sources, built = fake_pictures(folder / "fake", ("humordb",), pictures), str(folder / "built")
    pipeline.build(sources, Path(built), ["humor_detection"], num_proc=2)
    options = {"split": "train", "cache_dir": str(folder / "cache")}
    ours = partial(load_dataset, built, "humor_detection", **options)
    for (path,) in ours()["media"]:
        target = folder / "imagefolder" / Path(path).relative_to("Dataset")
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(Path(sources["humordb"], path), target)
    theirs = partial(load_dataset, "imagefolder", data_dir=str(folder / "imagefolder" / "Train"), **options)

    def decode_oneself(dataset):
        for row in dataset:
            Image.open(io.BytesIO(row["images"][0]["bytes"])).load()

    short, encoded = ["images", "answer"], datasets.List(datasets.Image(decode=False))
    jobs = {}
    for name, streaming in (("", False), ("streaming ", True)):
        dataset = ours(streaming=streaming)
        bare = dataset.select_columns(short).cast_column("images", encoded)
        jobs[f"{name}imagefolder"] = partial(iterate, theirs(streaming=streaming))
        jobs[f"{name}picture and label"] = partial(iterate, dataset.select_columns(short))
        jobs[f"{name}all columns"] = partial(iterate, dataset)
        jobs[f"{name}picture and label, decoded by the caller"] = partial(decode_oneself, bare)
    seconds, rows = in_turns(rounds, jobs), len(ours())
    ratios = {n: seconds["streaming " * n.startswith("streaming") + "imagefolder"] / seconds[n] for n in seconds}
    return {
        "rows": rows,
        "imagefolder_rows_a_second": round(rows / seconds["imagefolder"]),
        "of_imagefolder": {name: round(ratio, 3) for name, ratio in ratios.items()},
    }


def iterate(dataset) -> None:
    for _ in dataset:  # decodes
        pass


def clips(folder: Path, rounds: int, pictures: int) -> dict:
    """Of clips of three seconds."""
    sources, rows = fake(folder / "fake", ("mintrec",), 0.1, "--clip", "640", "360", "75"), {}
    for video in ("frames", "clip"):
        pipeline.build(sources, folder / video, ["intent_understanding"], video=video)
        cache = str(folder / "cache")
        rows[video] = load_dataset(str(folder / video), "intent_understanding", split="train", cache_dir=cache)

    def decode():  # each from its beginning, converting only the frames that are wanted
        for row in rows["clip"]:
            with av.open(io.BytesIO(row["video"]["bytes"])) as container:
                stream, parts = container.streams.video[0], 2 * pipeline.FRAMES
                wanted = {part * stream.frames // parts for part in range(1, parts, 2)}
                for place, frame in enumerate(container.decode(stream)):
                    if place in wanted:
                        frame.to_image(width=FRAME_SIDE, height=FRAME_SIDE * stream.height // stream.width)

    seconds = in_turns(rounds, {"frames": partial(iterate, rows["frames"]), "clip": decode})
    sizes = {video: sum(file.stat().st_size for file in (folder / video).rglob("*.parquet")) for video in rows}
    return {
        "rows": len(rows["clip"]),
        "rows_a_second_with_frames": round(len(rows["frames"]) / seconds["frames"]),
        "frames_to_clip": round(seconds["clip"] / seconds["frames"], 2),
        "bytes_of_frames_to_clip": round(sizes["frames"] / sizes["clip"], 2),
    }


def watch_memory(process: subprocess.Popen, peaks: dict[str, float]) -> None:
    """Keeps in `peaks` the largest sums of MiB over a process and all its descendants."""
    while process.poll() is None:
        time.sleep(0.2)
        try:
            root = psutil.Process(process.pid)
            tree = [one.memory_full_info() for one in (root, *root.children(recursive=True))]
        except psutil.NoSuchProcess:
            continue  # one has ended meanwhile
        for kind in ("pss", "rss"):  # proportional: what processes share counts once; resident: in each of them
            peaks[kind] = max(peaks.get(kind, 0), round(sum(getattr(found, kind) for found in tree) / 2**20))


def scale(folder: Path, share: float) -> dict:
    """Builds all sources with two processes: wall time by step, memory, sizes."""
    start, built, steps, peaks = time.perf_counter(), folder / "EmoBench", {}, {}
    fake(folder / "fake", tuple(READERS), share)
    made, start = time.perf_counter() - start, time.perf_counter()
    command = [sys.executable, "-m", "dataset_scripts.build_emobench", "--num-proc", "2", "--output", str(built)]
    command += ["--sources", str(folder / "fake" / "sources.yaml")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        watcher = threading.Thread(target=watch_memory, args=(process, peaks))
        watcher.start()
        for line in process.stderr:  # updates of progress bars
            sys.stderr.write(line)
            step, bar, _ = line.partition(":")
            if bar:
                steps.setdefault(step, []).append(round(time.perf_counter() - start))
        watcher.join()
    if process.returncode:
        sys.exit(f"the build failed with {process.returncode}")
    total, files = time.perf_counter() - start, {file: pq.read_metadata(file) for file in built.rglob("*.parquet")}
    groups = [file.row_group(group) for file in files.values() for group in range(file.num_row_groups)]
    planted = json.loads((folder / "fake" / "planted.json").read_text())["counts"]
    found = {
        task: {name: splits for name, splits in config["sources"].items() if name != "drawn"}
        for task, config in json.loads((built / "stats.json").read_text())["configs"].items()
    }
    counts = [split for sources in found.values() for splits in sources.values() for split in splits.values()]
    return {
        "counted_as_planted": found == planted,
        "records_without_drawn": sum(split["read"] for split in counts),
        "samples_without_drawn": sum(split["kept"] for split in counts),
        "rows_without_drawn": sum(split["rows"] for split in counts),
        "seconds": {"make fake sources": round(made), "build": round(total)},
        "seconds_from_to": {step: f"{times[0]}-{times[-1]}" for step, times in steps.items()},
        "peak_mib": peaks,
        "output_mb": round(sum(file.stat().st_size for file in files) / 1e6),
        "shards": len(files),
        "largest_shard_mb": round(max(file.stat().st_size for file in files) / 1e6),
        "median_rows_a_group": statistics.median(group.num_rows for group in groups),
        "largest_group_mb": round(max(group.total_byte_size for group in groups) / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("write", "read", "clips", "scale"), required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pictures", type=int, default=24_000, help="of write and read, of about 30 KB each")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the published sizes")
    parser.add_argument("--folder", help="where to put what is made (default: the system's temporary folder)")
    args = parser.parse_args()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        if args.part == "scale":
            result = scale(Path(folder), args.scale)
        else:
            part = {"write": write, "read": read, "clips": clips}[args.part]
            result = part(Path(folder), args.rounds, args.pictures)
    print(json.dumps(result, indent=1))
    if args.part == "scale":
        misses = {
            "records are not counted as they were planted": not result["counted_as_planted"],
            f"fewer than {SAMPLES} samples": args.scale >= 1 and result["samples_without_drawn"] < SAMPLES,
            f"more than {MEMORY} MiB": result["peak_mib"]["pss"] > MEMORY,
            f"a shard of more than {SHARD} MB": result["largest_shard_mb"] > SHARD,
        }
        if any(misses.values()):
            sys.exit("; ".join(miss for miss, missed in misses.items() if missed))


if __name__ == "__main__":
    main()
