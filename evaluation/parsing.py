"""Generated text to a label of the label set, or to None: never a default, so that what can't be read counts as wrong.

The words for an emotion are its inflections and plain synonyms. They cover Ekman's basic emotions (Ekman 1992, "An
argument for basic emotions") with contempt (Ekman & Friesen 1986) and neutral, as in FER+ (Barsoum et al. 2016), and
the eight of Mikels et al. 2005 ("Emotional category data on images from the International Affective Picture System").
"""

import re


WORDS = {  # label: inflections, then synonyms that no other label here can claim
    "amusement": "amused amusing",
    "anger": "angry angered furious mad enraged outraged rage",
    "awe": "awed amazement amazed awestruck",
    "contempt": "contemptuous disdain disdainful scorn scornful",
    "contentment": "content contented satisfied satisfaction",
    "disgust": "disgusted disgusting revolted revulsion",
    "excitement": "excited exciting thrilled",
    "fear": "fearful afraid scared frightened terrified terror",
    "happiness": "happy happily joy joyful joyous cheerful glad delighted",
    "joy": "joyful joyous happy happiness cheerful glad delighted",
    "neutral": "neutrality emotionless expressionless",
    "sadness": "sad sadly unhappy sorrow sorrowful unhappiness",
    "surprise": "surprised surprising astonished astonishment shocked",
}
YES_WORDS = {  # what a sentence calls it instead of saying yes
    "hate_detection": "hateful hate harmful offensive",
    "humor_detection": "humorous humor humour funny joke",
    "sarcasm_detection": "sarcastic sarcasm ironic irony",
}
NEGATIONS = {"no", "not", "never", "neither", "nor", "without", "cannot", "hardly"}
NEGATION_REACH = 3  # words


def words_of(text: str) -> tuple[list[str], list[int]]:
    """The words in lower case, and for each the number of the clause it stands in."""
    text = re.sub(r"n't\b", " not", text.casefold().replace("\u2019", "'"))
    clauses = [re.findall(r"[^\W_]+", clause) for clause in re.split(r"[.,;:!?\n]|\bbut\b", text)]
    return [word for words in clauses for word in words], [i for i, words in enumerate(clauses) for _ in words]


def phrases_of(choices: list[str], task: str) -> dict[tuple[str, ...], str]:
    """Sequence of words: the one label it means. A word that several of the labels could mean is left out."""
    claims: dict[tuple[str, ...], set[str]] = {}
    for label in choices:
        for word in (YES_WORDS.get(task, "") if label == "yes" else WORDS.get(label.casefold(), "")).split():
            claims.setdefault((word,), set()).add(label)
    names = {tuple(words_of(label)[0]): label for label in choices}
    return {phrase: min(labels) for phrase, labels in claims.items() if len(labels) == 1} | names


def parse_answer(text: str, choices: list[str], task: str) -> str | None:
    """
    Args:
        text (`str`): what a model generated. If it has "Answer:", only what follows the last one is read.
        choices (`list[str]`): the label set.
        task (`str`): one of the five.

    Returns:
        `str` or `None`: the label that the text names, by itself or by one of its words; `None` if it names none, or
        more than one. A negated label ("not happy") is not named. For no and yes, "not funny" names no, and a text
        that begins with one of the two means it.
    """
    words, clauses = words_of(re.split(r"answer\s*:", text, flags=re.IGNORECASE)[-1])
    phrases = phrases_of(choices, task)
    binary = set(choices) == {"no", "yes"}
    if binary and words[:1] in (["yes"], ["no"]):
        return words[0]
    named, i = set(), 0
    longest = max(map(len, phrases), default=0)
    while i < len(words):
        length = next((n for n in range(longest, 0, -1) if tuple(words[i : i + n]) in phrases), 0)
        if length:
            label = phrases[tuple(words[i : i + length])]
            before = range(max(0, i - NEGATION_REACH), i)
            if not any(words[j] in NEGATIONS and clauses[j] == clauses[i] for j in before):
                named.add(label)
            elif binary and label == "yes":
                named.add("no")
        i += length or 1
    return named.pop() if len(named) == 1 else None
