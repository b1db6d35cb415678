"""Features of a frozen vision tower: computed once before the first epoch, then read from the disk."""

import copy
import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import datasets
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, send_to_device
from peft import PeftModel
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling

from evaluation.decoding import foundation_of
from evaluation.pictures import PictureError, decode_picture
from modeling_emollm.emoprompt import process_texts, render_chat

from .data import GREY
from .encoding import (
    QUESTION,
    REFUSED,
    digest_weights,
    encode,
    is_size,
    join,
    prepare,
    read,
    tokenwise,
    write,
)


GIGABYTE = 10**9
SAMPLE = 16  # pictures, from all over the rows, that tell how large the features of all will be
STAND_IN = Image.new("RGB", (1, 1))  # for a picture that the processor counts and does not look at


@dataclass
class ImageFeatures(BaseModelOutputWithPooling):
    """What foundations take as `mm_encoder_outputs["image"]`."""

    deepstack_features: list[list[torch.Tensor]] | None = None


def with_encoder_outputs(inputs: dict) -> dict:
    """A batch with its `image_features`, if it has any, as the `mm_encoder_outputs` that `forward` takes."""
    inputs = dict(inputs)
    features = inputs.pop("image_features", None)
    return inputs if features is None else {**inputs, "mm_encoder_outputs": {"image": ImageFeatures(**features)}}


class FeatureCache:
    """
    What a foundation's `get_image_features` gives for each distinct picture, in a file of its own, with the text that
    the processor puts in place of the picture's placeholder. The file's name is a digest of all that this depends on:
    the picture, the weights, the processor and the version of transformers.

    Args:
        folder (`str` or `Path`): where the files are; processes and trainings may share it.
        model (`PreTrainedModel` or `PeftModel`): a foundation or an EmoLLM, with what is trained chosen.
        processor (`ProcessorMixin`): its own.
        max_gigabytes (`float`): the most that all files in the folder may take.

    Raises:
        `ValueError`: if a process does not hold the whole model.
    """

    def __init__(
        self,
        folder: str | Path,
        model: PreTrainedModel | PeftModel,
        processor: ProcessorMixin,
        max_gigabytes: float,
    ):
        self.folder = Path(folder)
        self.processor = processor
        self.max_gigabytes = max_gigabytes
        weights = gather_object([digest_weights(foundation_of(model))])
        if len(set(weights)) > 1:
            raise ValueError(
                "The processes hold different weights, of which no features can be computed: set "
                "fsdp_cpu_ram_efficient_loading to false, or leave feature_cache out."
            )
        config = foundation_of(model).config.to_dict()
        for name in ("_name_or_path", "name_or_path", "transformers_version", "dtype"):
            config.pop(name, None)
        settings = [weights[0], config, processor.to_json_string(), transformers.__version__]
        self._identity = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).digest()

    def _path(self, image: dict) -> Path:
        content, file = image["bytes"], image["path"]
        if content is None:  # a file that is missing is one that can't be decoded
            content = Path(file).read_bytes() if file and Path(file).is_file() else b""
        key = hashlib.sha256(self._identity + content).hexdigest()
        return self.folder / key[:2] / f"{key}.safetensors"

    def has(self, image: dict) -> bool:
        """Whether the features of a picture, `{"bytes": ..., "path": ...}`, are stored."""
        return self._path(image).exists()

    def process(self, texts: list[str], images: list[list[dict]]) -> dict:
        """
        Rendered conversations and their stored pictures to what the processor gives, padded on the left, but with
        `image_features` instead of pixels.
        """
        stored = [read(self._path(image)) for group in images for image in group]
        # InternVL's processor puts pixels in order, and so needs some.
        pixels = {"pixel_values": torch.empty(len(stored), 0), "num_patches": [1] * len(stored)}
        processor = copy.copy(self.processor)
        processor._process_images = lambda *args, **kwargs: (pixels, [replacement for replacement, _ in stored])
        batch = process_texts(processor, texts, [[STAND_IN] * len(group) for group in images], "left")
        batch = {name: batch[name] for name in tokenwise(batch)}
        if stored:
            entries = [entry for _, entry in stored]
            batch |= {name: torch.cat([entry[name] for entry in entries]) for name in entries[0] if is_size(name)}
            batch["image_features"] = join(entries)
        return batch

    def fill(self, rows: datasets.Dataset, model: PreTrainedModel | PeftModel, device: torch.device) -> None:
        """
        Computes the features that are not stored yet, shared between the processes; after an interruption the next
        call goes on. Pictures that can't be decoded are counted and left out.

        Args:
            rows (`Dataset`): with undecoded pictures in `images`, and `messages`.
            model (`PreTrainedModel` or `PeftModel`): the one that the cache was made with.
            device (`torch.device`): to compute on.

        Raises:
            `ValueError`: if features would change during the training, take more space than there is or is allowed,
                are not seen by all processes, or do not for the model what pixels do.
        """
        state, home, mode = PartialState(), model.device, model.training
        places, examples = self._scan(rows, state)
        # Found by one process: others would see what the first of them has begun to write.
        missing = [[path for path in places if not path.exists()] if state.is_main_process else None]
        [missing] = broadcast_object_list(missing)
        sample = {self._path(image) for row in examples for image in row["images"]} | {self._path(GREY)}
        sample |= {*missing[:: max(1, len(missing) // SAMPLE)]}
        first = [path for path in missing if path in sample]
        rest = [path for path in missing if path not in sample]
        pictures = _Pictures(self.processor, rows, places)
        if home.type != device.type:
            model.to(device)
        model.eval()
        try:
            self._check_frozen(model)
            skipped = self._compute(first, pictures, model, state)
            self._check_space(len(places), first, len(rest), state)
            self._check_inputs(examples, model)
            skipped += self._compute(rest, pictures, model, state)
        finally:
            model.train(mode).to(home)
        if skipped:
            state.print(f"{skipped} of {len(places)} pictures can't be decoded; their rows will be skipped.")

    def _scan(self, rows: datasets.Dataset, state: PartialState) -> tuple[dict[Path, list[int] | None], list[dict]]:
        """Where each distinct picture is, by its file; and a row with one picture and one with several, if any."""
        share = range(state.process_index, len(rows), state.num_processes)
        images = rows.select_columns("images").select(share)
        found, several = [], []
        for row, entry in zip(share, tqdm(images, desc="pictures", disable=not state.is_main_process), strict=True):
            found += [(row, place, self._path(image)) for place, image in enumerate(entry["images"])]
            several += [(len(entry["images"]) > 1, row)] if entry["images"] else []
        places = {self._path(GREY): None}
        for *place, path in sorted(gather_object(found)):
            places.setdefault(path, place)
        first = {many: row for many, row in sorted(gather_object(several), reverse=True)}
        return places, [rows[row] for row in first.values()]

    @torch.no_grad()
    def _compute(
        self, paths: list[Path], pictures: "_Pictures", model: PreTrainedModel | PeftModel, state: PartialState
    ) -> int:
        """Writes these files, one picture at a time, and counts the pictures that can't be decoded."""
        share = Subset(pictures, paths[state.process_index :: state.num_processes])
        # Workers decode while the device computes.
        loader = DataLoader(share, batch_size=None, num_workers=4 if model.device.type == "cuda" else 0)
        skipped = 0
        for path, prepared in tqdm(loader, desc="features", disable=not paths or not state.is_main_process):
            if prepared is None:
                skipped += 1
            else:
                inputs, replacement = prepared
                write(path, replacement, encode(model, inputs))
        skipped = sum(gather_object([skipped]))
        if sum(not path.exists() for path in paths) != skipped:
            raise ValueError(f"{self.folder} is not shared by all machines: choose a folder that is.")
        return skipped

    def _check_frozen(self, model: PreTrainedModel | PeftModel) -> None:
        entry = encode(model, prepare(self.processor, decode_picture(GREY))[0])
        tensors = [
            part for value in entry.values() for part in ([value] if isinstance(value, torch.Tensor) else value)
        ]
        changing = [tensor.float().sum() for tensor in tensors if tensor.requires_grad]
        if changing:
            trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
            gradients = torch.autograd.grad(sum(changing), [*trained.values()], allow_unused=True)
            names = [name for name, gradient in zip(trained, gradients, strict=True) if gradient is not None]
            raise ValueError(
                f"{len(names)} weights that make the features of pictures are trained, e.g. {names[0]}: leave "
                "feature_cache out, or set train to mvp or mvp+lora."
            )

    def _check_space(self, number: int, first: list[Path], rest: int, state: PartialState) -> None:
        sizes = [path.stat().st_size for path in first if path.exists()]
        needed = rest * sum(sizes) / max(1, len(sizes)) / GIGABYTE
        taken = sum(path.stat().st_size for path in self.folder.rglob("*.safetensors")) / GIGABYTE
        free = shutil.disk_usage(self.folder).free / GIGABYTE
        needed, taken, free = broadcast_object_list([needed, taken, free])
        numbers = f"{taken:.3g} GB there, about {needed:.3g} GB to come, {free:.3g} GB free on the disk"
        state.print(f"Features of {number} pictures in {self.folder}: {numbers}.")
        if taken + needed > self.max_gigabytes or needed > free:
            raise ValueError(
                f"The features of {number} pictures do not fit into {self.folder}: {numbers}, and feature_cache_gb="
                f"{self.max_gigabytes:g}. Raise it, choose a folder on a larger disk, delete what other models have "
                "left there, load the model in bfloat16, or leave feature_cache out."
            )

    @torch.no_grad()
    def _check_inputs(self, examples: list[dict], model: PreTrainedModel | PeftModel) -> None:
        """Stored features must do for the model what the pixels of the same batch do."""
        texts = [
            render_chat(self.processor, messages) for messages in [row["messages"] for row in examples] + [QUESTION]
        ]
        images = [row["images"] for row in examples] + [[GREY]]
        images = [[image if self.has(image) else GREY for image in group] for group in images]
        stored = self.process(texts, images)
        decoded = [[decode_picture(image) for image in group] for group in images]
        pixels = dict(process_texts(self.processor, texts, decoded, "left"))
        for name in [*tokenwise(pixels), *filter(is_size, stored)]:
            if name not in stored or not torch.equal(stored[name], pixels[name]):
                raise ValueError(f"The {name} that {type(self.processor).__name__} gives {REFUSED}")
        foundation = foundation_of(model)
        stored, pixels = send_to_device((with_encoder_outputs(stored), pixels), model.device)
        try:
            actual = model(**stored, logits_to_keep=1).logits
        except AttributeError as error:  # of features that have more to them
            raise ValueError(f"The features of {type(foundation).__name__} {REFUSED} ({error})") from error
        expected = model(**pixels, logits_to_keep=1).logits
        difference, largest = (actual - expected).abs().max(), expected.abs().max()
        tolerance = torch.finfo(foundation.dtype).eps ** 0.5 * largest
        if not difference <= tolerance:
            raise ValueError(
                f"Features of {type(foundation).__name__} {REFUSED} The logits that they give differ by "
                f"{difference:.3g} from those of the pixels, where up to {tolerance:.3g} would be rounding."
            )


class _Pictures(Dataset):
    """By file: a picture as the processor prepares it alone, or None if it can't be decoded."""

    def __init__(self, processor: ProcessorMixin, rows: datasets.Dataset, places: dict):
        self.processor = processor
        self.images = rows.select_columns("images")
        self.places = places

    def __getitem__(self, path: Path) -> tuple[Path, tuple[dict, str] | None]:
        place = self.places[path]
        try:
            picture = decode_picture(GREY if place is None else self.images[place[0]]["images"][place[1]])
        except PictureError:
            return path, None
        return path, prepare(self.processor, picture)
