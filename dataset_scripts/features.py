"""The columns of a row, as `datasets` declares them; `rows.ROW_SCHEMA` is the same for Arrow."""

from datasets import Features, Image, Json, List, Value, Video


FEATURES = Features(
    {
        "id": Value("string"),
        "source": Value("string"),
        "task": Value("string"),
        "setting": Value("string"),
        "images": List(Image()),
        "video": Video(decode=False),
        "media": List(Value("string")),
        "context": Value("string"),
        "turns": List({"speaker": Value("string"), "text": Value("string")}),
        "instruction": Value("string"),
        "choices": List(Value("string")),
        "answer": Value("string"),
        "answers": List(Value("string")),
        "label_distribution": List(Value("float32")),
        "rationale": Value("string"),
        "attributes": Json(),
        "licence": Value("string"),
        "messages": List(Json()),
    }
)
