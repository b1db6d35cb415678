"""Teachers behind an endpoint and in this process, one request at a time."""

import asyncio
import base64
import io
import os
import shutil
from functools import partial

import pytest
from asking import EMOTION, KEY, content, rows_of, stored, write
from loopback_teacher import Asked, LoopbackTeacher, Reply, right
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from dataset_scripts.manifest import verify
from evaluation.rationales import checks, teachers
from modeling_emollm.emoprompt import encode_chats


@pytest.mark.parametrize(("form", "kind"), [("PNG", "png"), ("JPEG", "jpeg"), ("MPO", "jpeg"), ("WEBP", "webp")])
def test_pictures_are_sent_with_their_type(form, kind):
    file, picture = io.BytesIO(), Image.new("RGB", (8, 8))
    picture.save(file, form, **({"save_all": True, "append_images": [picture]} if form == "MPO" else {}))
    head, _, data = teachers.data_url(file.getvalue()).partition(",")
    assert head == f"data:image/{kind};base64" and base64.b64decode(data) == file.getvalue()


def test_the_key_is_sent_and_written_nowhere(drawn_dataset, tmp_path, capsys, monkeypatch):
    def script(asked: Asked) -> Reply:
        return Reply(f"{KEY} may not ask this", status=400) if "known: anger" in asked.text else right(asked)

    with LoopbackTeacher(script) as teacher:
        facts = write(drawn_dataset, teacher, tmp_path / "reasons", *EMOTION)
        assert {asked.headers["authorization"] for asked in teacher.asked} == {f"Bearer {KEY}"}
        assert facts["configs"]["emotion_recognition"]["drawn"]["dropped"] == {"refused by the endpoint": 4}
    assert sum("[the key] may not" in reply.get("refused", "") for reply in stored(tmp_path / "reasons")) == 4
    monkeypatch.delenv("OPENAI_API_KEY")
    with LoopbackTeacher() as teacher:
        write(drawn_dataset, teacher, tmp_path / "keyless", *EMOTION, "--limit", 2)
    assert not any(KEY.encode() in data for data in content(tmp_path).values())
    assert KEY not in "".join(capsys.readouterr())


def test_a_key_that_is_none_is_refused_and_not_told(drawn_dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\r\n")
    with LoopbackTeacher() as teacher:
        write(drawn_dataset, teacher, tmp_path / "reasons", *EMOTION, "--limit", 1)
        assert {asked.headers["authorization"] for asked in teacher.asked} == {f"Bearer {KEY}"}
        for key in (f"{KEY}é", f"{KEY}\r{KEY}"):
            monkeypatch.setenv("OPENAI_API_KEY", key)
            with pytest.raises(ValueError, match="OPENAI_API_KEY has characters that no key has") as error:
                write(drawn_dataset, teacher, tmp_path / "reasons", *EMOTION)
            assert KEY not in str(error.value)


def test_parameters_that_a_model_does_not_take_are_not_sent(drawn_dataset, tmp_path):
    def script(asked: Asked) -> Reply:
        for name in ("max_tokens", "temperature"):
            if name in asked.body:
                return Reply(f"Unsupported parameter: {name}", status=400, param=name)
        assert asked.body["max_completion_tokens"] == 99
        return right(asked)

    with LoopbackTeacher(script) as teacher:
        facts = write(drawn_dataset, teacher, tmp_path / "out", *EMOTION, "--max-tokens", 99, "--concurrency", 4)
    assert facts["configs"]["emotion_recognition"]["drawn"]["kept"] == 16
    assert len(teacher.asked) <= len(stored(tmp_path / "out")) + 8


def test_a_local_model_is_a_teacher(tiny_foundations, drawn_dataset, tmp_path, monkeypatch):
    options = ("--limit", 3, "--tasks", "emotion_recognition", "humor_detection", "--max-tokens", 4)
    model = tiny_foundations["idefics3"]
    facts = write(drawn_dataset, model, tmp_path / "reasons", *options, "--batch-size", 2)
    assert facts["teacher"] == "idefics3" and facts["output_tokens"] > 0
    for found in facts["configs"].values():
        assert found["drawn"]["asked"] == 3 == found["drawn"]["kept"] + sum(found["drawn"]["dropped"].values())
    assert verify(tmp_path / "reasons") == []
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", lambda *_, **__: 1 / 0)
    before = content(tmp_path / "reasons")
    write(drawn_dataset, model, tmp_path / "reasons", *options)
    assert content(tmp_path / "reasons") == before, "from the replies alone"
    shutil.copytree(model, tmp_path / "trained")
    trained, *others = (
        teachers.LocalModel(name, revision, 1, 1).identity
        for name, revision in ((str(tmp_path / "trained"), None), ("a/b", None), ("a/c", None), ("a/b", "x"))
    )
    os.utime(tmp_path / "trained" / "config.json")
    again = teachers.LocalModel(str(tmp_path / "trained"), None, 1, 1).identity
    assert trained != again and others[0] not in others[1:] and others[1] != others[2], "other models' replies"


def test_a_local_model_answers_in_batches(finished, tiny_foundations, drawn_dataset, tmp_path, monkeypatch):
    batches = []

    def answer(self, requests):
        batches.append([len(request.images) for request in requests])
        replies = []
        for request in requests:
            turn = {"content": [{"type": "text", "text": request.text}]}
            text = right(Asked({"messages": [turn]}, {}, 0, 1, 1)).text
            replies.append(teachers.read_reply(text, "stop", 100, 10))
        return replies

    monkeypatch.setattr(teachers.LocalModel, "answer", answer)
    facts = write(drawn_dataset, tiny_foundations["llava"], tmp_path / "reasons", "--batch-size", 5)
    assert all(found["drawn"]["kept"] == 16 for found in facts["configs"].values())
    assert sum(map(len, batches)) == len(finished[1])
    assert max(map(len, batches)) == 5 and sum(len(batch) >= 4 for batch in batches) > 0.7 * len(batches)
    assert all(len(set(batch)) == 1 for batch in batches), "no processor takes conversations with and without pictures"


def test_a_batch_gets_the_replies_of_each_request_alone(tiny_foundations, drawn_dataset, monkeypatch):
    images = [row["images"][0]["bytes"] for row in rows_of(drawn_dataset, "emotion_recognition")[:3]]
    requests = [
        checks.Request("", 1, text, [image], [])
        for text, image in zip(("How?", "Who is it, and what do they see?", "Why"), images, strict=True)
    ]
    taken = []
    for loader in (AutoModelForImageTextToText, AutoProcessor):

        def load(name, *, loader=loader, original=loader.from_pretrained, **options):
            taken.append((loader, name, options.pop("revision")))
            return original(name, **options)

        monkeypatch.setattr(loader, "from_pretrained", load)
    teacher = teachers.LocalModel(tiny_foundations["idefics3"], "a-branch", 6, 3)
    asyncio.run(teacher.__aenter__())
    assert taken == [(loader, tiny_foundations["idefics3"], "a-branch")
                     for loader in (AutoModelForImageTextToText, AutoProcessor)]  # fmt: skip
    alone = []
    for request in requests:
        turn = [{"type": "image"}, {"type": "text", "text": request.text}]
        inputs = encode_chats(teacher.processor, [[{"role": "user", "content": turn}]],
                              [[Image.open(io.BytesIO(request.images[0]))]])  # fmt: skip
        tokens = teacher.model.generate(**inputs, max_new_tokens=6, do_sample=False)
        alone.append((inputs["input_ids"].shape[1], tokens[0, inputs["input_ids"].shape[1] :].tolist()))
    assert len({tuple(new) for _, new in alone}) == 3
    decode = partial(teacher.processor.tokenizer.decode, skip_special_tokens=True)
    replies = teacher.answer(requests)
    for (prompt, new), reply in zip(alone, replies, strict=True):
        assert reply == teachers.read_reply(decode(new), "length", prompt, 6)
    (end,) = {alone[1][1][2]}
    teacher.model.generation_config.eos_token_id = [end]
    for (prompt, new), reply in zip(alone, teacher.answer(requests), strict=True):
        length = new.index(end) + 1 if end in new else 6
        assert reply == teachers.read_reply(decode(new[:length]), "stop" if end in new else "length", prompt, length)
