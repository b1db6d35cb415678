"""Parts of the page in HTML, with pictures inside, so that none of them has to be a file that the server keeps."""

import base64
import io
from html import escape

from PIL import Image

from .questions import Example


THUMBNAIL = 240  # pixels
ABOUT = """# EmoLLM
Ask a vision-language model what people in a picture or a clip seem to feel, want and mean, and see where it looked.
The model is {model}. Its answers are guesses at what onlookers would perceive: see below, *before you use it*."""
NOTICE = """### Before you use it
- **Labels say what onlookers would perceive**, not what somebody feels. The model is often wrong, and its errors fall
  unevenly on groups of people. Do not use it to judge, hire, teach, police or otherwise decide about people.
- **The EU AI Act** (Regulation (EU) 2024/1689) prohibits inferring emotions of people at work and in education but for
  medical or safety reasons (Article 5(1)(f)), counts other emotion recognition as high-risk (Annex III, point 1(c)),
  and makes those who use it inform the people who are exposed to it (Article 50(3)).
- **Nothing that you upload is kept.** A file is deleted as soon as it is read. Its pictures stay in memory until you
  choose others or close the page, and what you write is not logged. Upload only what you may."""
CSS = """
.html-container { padding: 0 !important; }
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
.strip { display: flex; flex-wrap: wrap; gap: 8px; margin: 0; padding: 0; }
.strip img { height: 112px; width: auto; max-width: 100%; border-radius: 6px; }
.examples { display: grid; grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)); gap: 8px; }
.examples button { border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 6px; cursor: pointer;
  background: var(--background-fill-primary); color: var(--body-text-color); font-size: 14px;
  line-height: 1.3; font-weight: 400;
  display: flex; flex-direction: column; justify-content: start; gap: 4px; text-align: left; }
.examples button:hover { border-color: var(--color-accent); }
.examples button:focus-visible { outline: 3px solid var(--color-accent); outline-offset: 2px; }
.examples img { width: 100%; aspect-ratio: 1; object-fit: cover; border-radius: 4px; }
.problem { border-left: 4px solid #b91c1c; padding: 10px 14px; background: #fef2f2; color: #7f1d1d; margin: 0; }
.note { color: var(--body-text-color); font-size: 14px; margin: 6px 0 0; }
.figure { overflow-x: auto; contain: inline-size; }
.figure img { width: 100%; min-width: 680px; background: white; border-radius: 6px; }
"""
# Which of the buttons was pressed.
EXAMPLES_SCRIPT = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('button');
  if (button) trigger('click', {number: Number(button.dataset.number)});
});
"""
# Gradio gives a group of choices no name that a screen reader would say.
PAGE_SCRIPT = """
() => document.querySelectorAll('fieldset').forEach((group) => {
  group.setAttribute('aria-label', group.querySelector('[data-testid=block-info]').textContent.trim());
})
"""


def inline(data: bytes, kind: str, alt: str) -> str:
    return f'<img src="data:image/{kind};base64,{base64.b64encode(data).decode()}" alt="{escape(alt)}">'


def thumbnail(picture: Image.Image, alt: str) -> str:
    small, buffer = picture.copy(), io.BytesIO()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    small.save(buffer, "JPEG", quality=85)
    return inline(buffer.getvalue(), "jpeg", alt)


def show_problem(message: str) -> str:
    return f'<p class="problem" role="alert">{escape(message)}</p>'


def show_status(message: str) -> str:
    return f'<p class="note" role="status">{escape(message)}</p>'


def show_pictures(pictures: list[Image.Image], message: str) -> str:
    images = [thumbnail(picture, f"Picture {i} of {len(pictures)}") for i, picture in enumerate(pictures, 1)]
    return f'<div class="strip">{"".join(images)}</div>{show_status(message)}'


def show_examples(examples: list[Example]) -> str:
    buttons = [
        f'<button type="button" data-number="{number}">{thumbnail(example.pictures[-1], "")}'
        f"<b>{example.name}</b> {escape(example.words or example.question)}</button>"
        for number, example in enumerate(examples)
    ]
    return f'<div class="examples" role="group" aria-label="Drawn examples">{"".join(buttons)}</div>'


def show_figure(figure: bytes, pictures: int) -> str:
    alt = f"What each perspective looked at in {pictures} picture{'s' * (pictures > 1)}, its gates, and the answer"
    return f'<div class="figure" tabindex="0" role="region" aria-label="Figure">{inline(figure, "png", alt)}</div>'
