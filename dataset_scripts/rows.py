"""From samples to rows of the dataset, and their Arrow schema; light enough for every worker process."""

import json

import pyarrow as pa

from dataset_scripts.tasks import render_instruction, render_messages, settings


MEDIA = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
# the columns that hold pictures and clips, which are added last, when a shard is written
MEDIA_FIELDS = [pa.field("images", pa.list_(MEDIA)), pa.field("video", MEDIA)]
TEXT_FIELDS = [
    pa.field("id", pa.string()),
    pa.field("source", pa.string()),
    pa.field("task", pa.string()),
    pa.field("setting", pa.string()),
    pa.field("media", pa.list_(pa.string())),
    pa.field("context", pa.string()),
    pa.field("turns", pa.list_(pa.struct([("speaker", pa.string()), ("text", pa.string())]))),
    pa.field("instruction", pa.string()),
    pa.field("choices", pa.list_(pa.string())),
    pa.field("answer", pa.string()),
    pa.field("answers", pa.list_(pa.string())),
    pa.field("label_distribution", pa.list_(pa.float32())),
    pa.field("rationale", pa.string()),
    pa.field("attributes", pa.json_()),
    pa.field("licence", pa.string()),
    pa.field("messages", pa.list_(pa.json_())),
]
ROW_SCHEMA = pa.schema([*TEXT_FIELDS[:4], *MEDIA_FIELDS, *TEXT_FIELDS[4:]])
# text of the rows, and what the later steps need: whether the row starts a sample, whether that is a clip, what its
# media will take in the row, and its pictures if they are computed
SCAN_SCHEMA = pa.schema(
    [
        *TEXT_FIELDS[:-3],
        ("attributes", pa.string()),  # JSON, which Arrow does not make from Python's values yet
        ("licence", pa.string()),
        ("messages", pa.list_(pa.string())),
        ("first", pa.bool_()),
        ("clip", pa.bool_()),
        ("size", pa.int64()),
        ("computed", pa.list_(pa.binary())),
    ]
)


def dump(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def render_rows(sample, size, frames):
    """The rows of a sample, without media: one closed question, and an open one where its task is also asked openly.

    Args:
        sample (`EmoSample`): What is asked about.
        size (`int`): Bytes that its media will take.
        frames (`int`): Images that a clip's row will have; 0 if clips are stored as they are.

    Returns:
        `list[dict]`: Rows of `SCAN_SCHEMA`; only the first bears computed pictures.
    """
    computed = [image for image in sample.images if isinstance(image, bytes)]
    images = len(sample.images) if sample.images else frames
    asked = settings(sample)
    return [
        {
            "id": f"{sample.id}#{setting}" if len(asked) > 1 else sample.id,
            "source": sample.source,
            "task": sample.task,
            "setting": setting,
            "media": [sample.video] if sample.video else [image for image in sample.images if isinstance(image, str)],
            "context": sample.context,
            "turns": [{"speaker": speaker, "text": words} for speaker, words in sample.turns],
            "instruction": render_instruction(sample, setting),
            "choices": sample.questions.labels,
            "answer": sample.answer,
            "answers": sample.answers,
            "label_distribution": sample.label_distribution,
            "rationale": None,  # evaluation.rationales writes it, into a finished build
            "attributes": dump(sample.attributes),
            "licence": sample.licence,
            "messages": [dump(message) for message in render_messages(sample, setting, images)],
            "first": not number,
            "clip": bool(sample.video),
            "size": 0 if number else size,
            "computed": None if number else computed,
        }
        for number, setting in enumerate(asked)
    ]
