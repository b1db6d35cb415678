"""Generated text to labels: never a default, so that what can't be read counts as wrong.

What is read, in this order:

1. Thinking (`<think>...</think>` and its kin) is dropped, also where it never ends.
2. If there is "Answer:" (or "**Answer:**", "Final answer -", a heading, JSON's "answer", `<answer>`, `boxed{`), the
   line after the last one with words decides, its paragraph for several labels. If that can't be read, nothing is.
   What is behind an invented next turn ("User:", "Question:") does not count.
3. Quotations of several words, questions and refusals name nothing, nor does a sentence with every option next to one
   with fewer, nor where the labels are no and yes, one that decides nothing ("if", "may", "alone", "condemns").
4. A clause of nothing but labels and fillers ("Probably happiness.") decides over the others, a sentence that begins
   with "So" or "Overall" over that one, "yes" and "no" over all.
5. Otherwise every clause counts, but for reasons ("because") and asides ("which") of a label named before. A label is
   negated by an odd number of negations up to eight words before it, in its clause (which ends at commas, "but", "so
   it" and the like) or in a list that ends in "or" ("no anger, fear, or joy"), and by "is not" or "-free" right
   behind: "not unfunny" means funny.

Where the labels are no and yes, the two, in 22 languages, make up a clause, or begin one ("Yes it is"), and in English
the words for the task count as well: "not funny" means no. More than one label is none, unless `several`.

Not understood: grammar ("a man without a shirt next to a hateful slogan" means no, for the eight words), homographs
("autumn leaves"), answers that hedge between labels ("fear of the angry dog"), what is meant but not named ("the text
is harmless, but it attacks a group" means no), other languages' sentences ("No es sarcástico").

The words are in lexicon.json. `forms` are a label's own inflections: such a word belongs to it, whatever else it could
mean. They are listed, since Snowball's English stemmer takes careful for care, comfortable for comfort, information
for inform and contents for contentment, but not angry for anger or advice for advise. `synonyms` count unless two
labels of the present set claim the word. They follow the tree of Shaver et al. 1987 ("Emotion knowledge") and Parrott
2001, and GoEmotions' mapping to Ekman's six (Demszky et al. 2020). Of the eight of Mikels et al. 2005, contentment has
the calm and pleasant words of Russell 1980, awe those of Keltner & Haidt 2003; contempt is Ekman & Friesen's (1986).
Fear and surprise both claim shock. Yes and no are `yesstr` and `nostr` of Unicode CLDR 48, with what is said besides
(such as 是的). They count as whole clauses only, since most mean something else elsewhere (ja, si, tak, ne). Where
they do so even then, as colloquial Polish "no" does, the meaning in the CLDR decides.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path


LEXICON = json.loads((Path(__file__).parent / "lexicon.json").read_text(encoding="utf-8"))
PUNCTUATION = str.maketrans(
    dict(zip("‘’。।、،؟؛“”„«»「」", '\'\'..,,?;"""""""', strict=True)) | {"–": " - ", "—": " - "}
)
# A word is what punctuation and symbols leave: `\w` would cut Hindi at its vowel signs.
WORD = re.compile(r"[^\s!-/:-@\[-`{-~\u00a1-\u00bf\u2000-\u206f\u2600-\u27bf\ufe0f\U0001f000-\U0001faff]+")

THOUGHT = r"(?:think|thinking|thought|reasoning)[>▷\]]"
THOUGHT_BEGINS = re.compile(rf"[<◁\[]{THOUGHT}|<\|channel>thought|<\|channel\|>analysis|<\|start_thinking\|>")
THOUGHT_ENDS = re.compile(rf"[<◁\[]/{THOUGHT}|<channel\|>|<\|channel\|>final<\|message\|>|<\|end_thinking\|>")
ANSWER = re.compile(
    r"\b(?:answers?|antwort|réponse|respuesta|risposta|resposta|ответ)[\"'`*_\s]*(?:[:=]|-\s)"
    r"|(?:答案|回答|정답)\s*:|<answer>|\\boxed\s*\{|^[#*_ \t]*(?:final )?answers?[*_ \t]*$",
    re.MULTILINE,
)
NEXT_TURN = re.compile(r"\n[*#_ \t]*(?:user|human|(question))[*_ \t]*:")
QUOTED = re.compile(r"\"[^\"\n]*\"|(?<!\w)'[^'\n]*'(?!\w)")
JSON_VALUE = re.compile(r'\s*(?:"[^"\n]*"|\[[^\]]*\]|(?:true|false|null)\b)')

REACH = 8  # words
NEGATIONS = frozenset(
    "no not never neither none nobody nothing without non hardly barely scarcely lack lacks lacking absence absent "
    "devoid doubt deny denying fail fails failed unlikely less".split()
)
REASON = "\0"
REWRITES = (
    (r"n't\b|\b(?:is|are|was|does|do|did|would)nt\b", " not"),
    (r"\bcannot\b", "can not"),
    # what sounds like a negation or a label and is none
    (r"\bnot (?:only|just|merely|simply|solely)\b|\bnothing short of\b", " "),
    (r"\b(?:(?:no )?more than|no (?:question|wonder)|beyond (?:any |a )?doubt)\b", " "),
    (r"\bi(?:'m| am|'d be| would be) (?:\w+ )?(?:happy|glad|delighted|pleased|afraid|excited|sad)\b", " "),
    (r"\b(?:the|this|its|of)(?: \w+)? contents?\b|\bcontents? of\b", " "),
    (r"\bwonders? (?:wh\w+|how|if)\b|\bplays? an? (?:\w+ )?role\b", " "),
    (r"\b(?:not|\w+ly) (?:hides?|conceals?|contains? (?=his|her|their))\b", " "),
    (r"\b(?:lack|absence) of (?:\w+ ){1,4}?(?=suggests|indicates)", " "),
    (r"(?<![:\w] )\b(?:true|false),", " "),
    (r"\bneutral (?:background|colou?rs?|tones?|light(?:ing)?)\b", " "),
    (r"\b(?:far from|anything but|instead of|free (?:of|from)|less than|(?:mistake|wrong) to call)\b", " not "),
    (r"\b(rather |more (?:\w+ ){1,3}?)than\b|\b(too (?:\w+ ){1,3}?)to (?=be\b)", r"\1\2 not "),
    (r"\bless ((?:\w+ ){1,3}?)than\b", r"not \1,"),
    (r"\s-+\s", ","),
    (r"\b(?:but|however|although|though|whereas|while)\b", ";"),
    (r"(?<=\w )(?:so|(?<!\bnot )(?<!\b(?:in|of|at) )making) (?=(?:it|this|the|he|she|they|there|i|yes|no)\b)", ";"),
    (r"\b(?:thus|hence|therefore)\b", r";\g<0>"),
    (r"\b(?:because|since|due to|which)\b", REASON),
)
NEGATION = re.compile(rf"\b(?:{'|'.join(sorted(NEGATIONS))})\b")
NEGATED_BEHIND = re.compile(r"(?:(?:is|are|was|were) (?:not|absent|missing|lacking|unlikely)|free)\b")
ENUMERATED = re.compile(r",(?=\s*(?:\w+(?:\s\w+)?\s*)?(?:,|$))")  # before one or two words
REFUSAL = re.compile(
    r"\b(?:i|we)\b[^.;:!?\n]{0,20}\b(?:not|unable|never)\b(?: \w+){0,3}? (?:able|help|assist|comply|engage|provide"
    r"|fulfil|participate|generate|create|discuss|support|continue|answer|respond|analy[sz]e|comment|judge|evaluate"
    r"|assess|identify|determine|tell|infer|know|recogni[sz]e|interpret|comfortable)\b|\bcan? not say\b|\bas an ai\b"
    r"|\blanguage model\b|\b(?:i'm|i am|we're|we are) (?:\w+ )?sorry\b|^\W*sorry\b|\bi apologi[sz]e\b|\bguidelines\b"
)
UNDECIDED = re.compile(
    r"\b(?:whether|if|may|might|could|at first|alone|on (?:its|their) own|unclear|unsure|uncertain|impossible"
    r"|not (?:\w+ )?(?:clear|sure|certain)|(?:hard|difficult) to|condemn\w*|denounc\w*|(?:out|stands?) against)\b"
)
CONCLUSION = re.compile(r"\W*(?:yet )?(?:so|thus|hence|therefore|overall|all in all|in (?:conclusion|summary))\b")
FILLERS = NEGATIONS | frozenset(
    "a absolutely actually also an and answer be believe best certainly choice clear clearly correct d definitely do "
    "does dominant emotion feeling final guess hard hence hmm i intent is it label likely m main maybe most my option "
    "or overall perhaps possibly primarily probably s say so that the therefore think this thus to well would".split()
)
AFTER_NO = frozenset("and he i it not she that the there they this".split())  # else as in "no sarcasm"
OPPOSITE = {"yes": "no", "no": "yes"}

Phrases = dict[tuple[str, ...], str]  # words to the one label that they mean
Found = list[tuple[int, int, str]]  # where a phrase begins and ends, and its label


def normalise(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().translate(PUNCTUATION)


def rewrite(text: str) -> str:
    for pattern, replacement in REWRITES:
        text = re.sub(pattern, replacement, text)
    return text


def phrases_in(words: str) -> set[tuple[str, ...]]:
    return {tuple(WORD.findall(phrase)) for phrase in normalise(words).split(",")}


YES_OR_NO = {phrase: label for label in OPPOSITE for phrase in phrases_in(LEXICON[label])}


@cache
def phrases_of(choices: tuple[str, ...], task: str) -> Phrases:
    """The words for each label; for no and yes, the words for the task."""
    if set(choices) == set(OPPOSITE):
        words = {"yes": LEXICON["tasks"].get(task, ""), "no": LEXICON["opposites"].get(task, "")}
        return {phrase: label for label in choices for phrase in phrases_in(words[label])}
    own, claims = {}, {}
    for label in choices:
        own |= dict.fromkeys(phrases_in(LEXICON["forms"].get(label.casefold(), "")), label)
        for phrase in phrases_in(LEXICON["synonyms"].get(label.casefold(), "")):
            claims.setdefault(phrase, []).append(label)
    names = {tuple(WORD.findall(normalise(label))): label for label in choices}
    return {phrase: labels[0] for phrase, labels in claims.items() if len(labels) == 1} | own | names


def find(words: list[str], phrases: Phrases) -> Found:
    """The phrases among the words, from the left, the longest first."""
    longest, found, start = max(map(len, phrases), default=0), [], 0
    while start < len(words):
        ends = range(min(start + longest, len(words)), start, -1)
        end = next((end for end in ends if tuple(words[start:end]) in phrases), None)
        if end:
            found.append((start, end, phrases[tuple(words[start:end])]))
        start = end or start + 1
    return found


def is_bare(words: list[str], found: Found) -> bool:
    covered = {i for start, end, _ in found for i in range(start, end)}
    return all(i in covered or word in FILLERS for i, word in enumerate(words))


def is_negated(words: list[str], start: int, end: int, starts: set[int]) -> bool:
    reach = range(max(0, start - REACH), start)
    # "does not smile and is angry", but "not sad and angry"
    reach = words[max((i for i in reach if words[i] == "and" and i + 1 not in starts), default=reach.start) : start]
    behind = " ".join(words[end : end + 2])
    return sum(word in NEGATIONS for word in reach) % 2 == 1 or bool(NEGATED_BEHIND.match(behind))


def answer_part(text: str, several: bool, concluded: bool) -> str:
    """Steps 1 and 2 on a normalised text."""
    text = THOUGHT_BEGINS.split(THOUGHT_ENDS.split(text)[-1])[0].lstrip()
    first = ANSWER.search(text)
    turns = (turn for turn in NEXT_TURN.finditer(text) if not turn[1] or first and first.end() <= turn.start())
    text = text[: min((turn.start() for turn in turns), default=None)]
    markers = list(ANSWER.finditer(text))
    ends = [marker.start() for marker in markers[1:]] + [len(text)]
    said = [marker for marker, end in zip(markers, ends, strict=False) if WORD.search(text, marker.end(), end)]
    if marker := (said or markers or [None])[-1]:
        text = text[marker.end() :]
        value = JSON_VALUE.match(text) if '"' in marker[0] else None
        text = value[0] if value else text
    text = re.sub(r"<[^<>\n]{0,30}>", "\n", text).lstrip(" \t\n#>*_`-")
    if marker or not concluded:
        text = text.split("\n\n" if several else "\n")[0] if marker else text
        unquoted = QUOTED.sub(lambda quoted: quoted[0] if " " not in quoted[0] else " ", text)
        return unquoted if WORD.search(unquoted) else text
    return ""


def clauses_of(sentence: str) -> list[str]:
    """Those with words in them; "no anger, fear, or joy" is one."""
    negation, end = NEGATION.search(sentence), max(sentence.rfind(" or "), sentence.rfind(" nor "))
    if negation and end > negation.start():
        listed = ENUMERATED.sub(" ", sentence[negation.start() : end])
        sentence = sentence[: negation.start()] + listed + sentence[end:]
    return list(filter(WORD.search, re.split(r"[,()\[\]{}|]", sentence)))


def read_clause(clause: str, binary: bool, phrases: Phrases, concludes: bool) -> Iterator[tuple[str, int]]:
    """The labels that a clause names, with a weight: 3 for yes and no, 2 in a conclusion, 1 for a bare label."""
    words = WORD.findall(clause)
    found = find(words, phrases)
    if binary:
        said = [
            (start, end, label)
            for start, end, label in find(words, YES_OR_NO)
            if words[start:end] != ["no"] or end == len(words) or words[end] in AFTER_NO
        ]
        alone = is_bare(words, said)
        yield from ((label, 3) for start, _, label in said if alone or start == 0 and words[0] in OPPOSITE)
    weight = int(not binary and is_bare(words, found))
    starts = {start for start, _, _ in found}
    negated, last = False, 0
    for start, end, label in found:
        goes_on = negated and set(words[last:start]) <= {"or"}
        negated, last = goes_on or is_negated(words, start, end, starts), end
        if binary or not negated:
            yield OPPOSITE[label] if negated else label, 2 if concludes else weight


def parse_answer(
    text: str, choices: list[str], task: str, several: bool = False, concluded: bool = False
) -> list[str]:
    """
    Args:
        text (`str`): what a model generated.
        choices (`list[str]`): the label set.
        task (`str`): one of the five.
        several (`bool`): whether more than one label may be given.
        concluded (`bool`): whether nothing but what follows "Answer:" counts, as where reasoning comes first and may
            have been cut before its end.

    Returns:
        `list[str]`: the labels that the text names, in the order of `choices`; empty if it names none or, unless
        `several`, more than one. The module says what is read.
    """
    text = rewrite(answer_part(normalise(text), several, concluded))
    binary = set(choices) == set(OPPOSITE)
    phrases = phrases_of(tuple(choices), task)
    refusal = binary and REFUSAL.search(text)
    names, options = [], []
    for sentence, mark in re.findall(r"([^.;:!?\n]+)([.;:!?\n]?)", text):
        # "Sarcasm: the words clash" does not say that it is there
        silent = refusal or UNDECIDED.search(sentence) or mark == ":" if binary else REFUSAL.search(sentence)
        concludes, row = bool(CONCLUSION.match(sentence)), []
        for part in sentence.split(REASON):
            for clause in [] if row else clauses_of(part):
                row += read_clause(clause, binary, {} if silent else phrases, concludes)
        if mark != "?":
            listed = {label for label, weight in row if weight == 3 or not binary}
            (options if listed == set(choices) else names).extend(row)
    names = names or options if len(choices) < 3 else names  # two may both be right
    best = max((weight for _, weight in names), default=0)
    given = {label for label, weight in names if weight == best}
    return [label for label in choices if label in given] if several or len(given) == 1 else []


def names_answer(sentence: str, choices: list[str], answers: list[str], task: str) -> bool:
    """
    Whether a sentence gives the answer away: it has a word for one of the true labels, negated or not, or for no and
    yes, one of the two or a word for the task.

    Args:
        sentence (`str`): a sentence of a rationale.
        choices (`list[str]`): the label set.
        answers (`list[str]`): the true ones of them.
        task (`str`): one of the five.
    """
    words = WORD.findall(normalise(sentence))  # a false alarm costs a sentence: nothing is rewritten or quoted
    found = find(words, phrases_of(tuple(choices), task))
    if set(choices) == set(OPPOSITE):
        return bool(found or words[-1:] in (["yes"], ["no"]) or parse_answer(sentence, choices, task, several=True))
    return any(label in answers for _, _, label in found)
