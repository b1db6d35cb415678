"""Labels' likelihoods without a pass over prompt and label for each."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.conformance.__main__ import FAMILIES
from benchmarks.conformance.checks import RAGGED, make_family, upgrade_as_if_trained
from evaluation.decoding import PAIRS, Prompt, answer_log_probabilities, label_scores, see


LABELS = [[30, 31], [30, 32, 33], [30, 32, 34], [41, 42, 43]]


def read_whole(model, batch: dict, answer: list[int]) -> torch.Tensor:
    """Log-probabilities `(B, T)` of the answer's tokens, each from a pass of its own over prompt and tokens before."""
    steps = []
    for place, token in enumerate(answer):
        size = (len(batch["input_ids"]), place)
        tails = {"input_ids": torch.tensor(answer[:place]).expand(size), "attention_mask": torch.ones(size).long()}
        longer = {
            name: torch.cat([value, tails.get(name, torch.zeros(size)).to(value.dtype)], dim=1)
            if value.shape == batch["input_ids"].shape
            else value
            for name, value in batch.items()
        }
        outputs = model.generate(
            **longer, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        steps.append(outputs.logits[0].log_softmax(-1)[:, token])
    return torch.stack(steps, dim=1)


# Full attention, windows, positions in three dimensions, convolutions, and states that recur.
@pytest.mark.parametrize("name", ["llava", "gemma3", "qwen2_5_vl", "lfm3_vl", "glm5_next"])
@pytest.mark.parametrize("upgraded", [False, True], ids=["foundation", "emollm"])
@torch.inference_mode()
def test_labels_have_the_likelihoods_of_whole_passes(name, upgraded):
    family = make_family(FAMILIES[name])
    model = (upgrade_as_if_trained(family) if upgraded else family.model).eval()
    batch = family.batch(RAGGED)  # rows of different lengths, one without a picture
    prompt = Prompt(model, see(model, batch, {}))
    expected = torch.stack([read_whole(model, batch, label).sum(1) for label in LABELS], dim=1)
    torch.testing.assert_close(label_scores(prompt, LABELS, every=True), expected, atol=1e-4, rtol=1e-4)
    lengths = torch.tensor(list(map(len, LABELS)))
    means = label_scores(prompt, LABELS, per_token=True, every=True)
    torch.testing.assert_close(means, expected / lengths, atol=1e-4, rtol=1e-4)
    first = prompt.next[:, [30, 41]]  # labels that differ in their first token are told apart there
    assert torch.equal(label_scores(prompt, [[30, 31], [41, 42]]), first)
    answers = [[30, 32, 33], [41], [50, 51]]
    for row, (values, hits) in enumerate(answer_log_probabilities(prompt, answers)):
        torch.testing.assert_close(values, read_whole(model, batch, answers[row])[row], atol=1e-4, rtol=1e-4)
        assert len(hits) == len(answers[row])


class Table:
    """A prompt whose next tokens follow from a seed and the tokens before; counts what it is asked."""

    def __init__(self, seed: int, rows: int, vocabulary: int, sharpness: float):
        self.seed, self.vocabulary, self.sharpness, self.followed = seed, vocabulary, sharpness, []
        self.next = torch.stack([self.behind(row, []) for row in range(rows)])

    def behind(self, row: int, tokens: list[int]) -> torch.Tensor:
        values = np.random.default_rng([self.seed, row, *tokens]).normal(size=self.vocabulary) * self.sharpness
        return torch.tensor(values).log_softmax(-1)

    def follow(self, rows: list[int], tokens: list[list[int]]) -> torch.Tensor:
        assert len(rows) <= max(len(self.next), PAIRS)
        self.followed += [(row, tuple(label)) for row, label in zip(rows, tokens, strict=True)]
        longest = max(map(len, tokens))
        return torch.stack(
            [
                torch.stack([self.behind(row, label[: place + 1]) for place in range(longest)])
                for row, label in zip(rows, tokens, strict=True)
            ]
        )


LABEL_SETS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=2, max_size=9, unique_by=tuple)


@settings(max_examples=60, deadline=None)
@given(labels=LABEL_SETS, seed=st.integers(0, 99), per_token=st.booleans(), sharpness=st.sampled_from([0.1, 1.0, 5.0]))
def test_the_likeliest_label_is_found_without_following_all(labels, seed, per_token, sharpness):
    few, all_ = (Table(seed, 3, 4, sharpness) for _ in range(2))
    bounds = label_scores(few, labels, per_token=per_token)
    exact = label_scores(all_, labels, per_token=per_token, every=True)
    assert (bounds >= exact - 1e-5).all()
    if len({label[0] for label in labels}) < len(labels) or per_token:
        assert torch.equal(bounds.argmax(1), exact.argmax(1))
        torch.testing.assert_close(bounds.amax(1), exact.amax(1))
    assert len(few.followed) == len(set(few.followed)) <= len(all_.followed)


def test_a_clear_case_follows_one_label_a_row():
    table = Table(0, 8, 30, sharpness=0.0)
    table.next[:] = torch.tensor([0.0] * 2 + [-50.0] * 28).log_softmax(-1)
    table.behind = lambda row, tokens: torch.tensor([-50.0] * 9 + [0.0] + [-50.0] * 20).log_softmax(-1)
    labels = [[0, 9, 9]] + [[number, 5] for number in range(2, 28)] + [[0, 7]]
    assert label_scores(table, labels).argmax(1).tolist() == [0] * 8
    assert len(table.followed) == 8
