"""The page of a demo: plain HTML around the template in assets/demo.html, nothing loaded from elsewhere."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from openlance.apps.demo import Section, Shown, Step
from openlance.sequence.tasks import find_task
from openlance.world.facts import Fact, What

BOX = re.compile(r"\((\d+),\s*(\d+)\)\s*,\s*\((\d+),\s*(\d+)\)")
GOOD = 0.9
FAIR = 0.5


@dataclass(frozen=True)
class About:
    """What the page says of the run as a whole."""

    model: str
    parameters: int
    machine: str
    load_seconds: float
    total_seconds: float


def demo_page(shown: Sequence[Shown], about: About) -> str:
    """The whole page as HTML."""
    template = string.Template(files("openlance.apps").joinpath("assets/demo.html").read_text(encoding="utf-8"))
    sections = list(dict.fromkeys(one.section for one in shown))
    steps = [step for one in shown for step in one.steps]
    facts = {
        "model": escape(about.model),
        "parameters": _millions(about.parameters),
        "machine": escape(about.machine),
        "load": f"{about.load_seconds:.1f} s",
        "total": f"{about.total_seconds:.0f} s",
        "requests": str(len(steps)),
        "passed": str(sum(step.mark.score >= GOOD for step in steps)),
        "navigation": "".join(f'<a href="#{_anchor(section)}">{escape(section.title)}</a>' for section in sections),
        "sections": "\n".join(_section(section, [one for one in shown if one.section == section]) for section in sections),
    }
    return template.substitute(facts)


def _section(section: Section, shown: Sequence[Shown]) -> str:
    cards = "\n".join(_story(one) if len(one.steps) > 1 else _card(one.steps[0]) for one in shown)
    head = f"<header><h2>{escape(section.title)}</h2><p>{escape(section.about)}</p></header>"
    return f'<section id="{_anchor(section)}">{head}<div class="cards">{cards}</div></section>'


def _card(step: Step) -> str:
    wide = " wide" if step.inputs and step.output else ""
    given = "".join(_medium(path, "given", step) for path in step.inputs)
    arrow = '<span class="arrow" aria-hidden="true"></span>' if step.inputs and step.output else ""
    made = _medium(step.output, "made", step) if step.output else ""
    return f'<article class="card{wide}"><div class="media">{given}{arrow}{made}</div>{_words(step)}</article>'


def _story(shown: Shown) -> str:
    turns = "".join(f"<li>{_medium(step.output, 'made', step) if step.output else ''}{_words(step)}</li>" for step in shown.steps)
    return f'<article class="card story"><ol>{turns}</ol></article>'


def _words(step: Step) -> str:
    answer = ""
    if isinstance(step.answer, str):
        right = step.mark.score >= GOOD
        expected = "" if right else f'<p class="expected">right: {escape(step.turn.answer or "")}</p>'
        long = " long" if len(step.answer) > 24 else ""
        answer = f'<p class="answer{long}">{escape(step.answer) or "&nbsp;"}</p>{expected}'
    return f'<div class="words"><p class="said">{escape(step.turn.text)}</p>{answer}{_verdict(step)}{_small(step)}</div>'


def _verdict(step: Step) -> str:
    """The judge's score, and its facts where there is more to say than right or wrong."""
    level = "good" if step.mark.score >= GOOD else "fair" if step.mark.score >= FAIR else "bad"
    word = {"good": "as asked", "fair": "in part", "bad": "not as asked"}[level]
    if isinstance(step.answer, str):
        word = {"good": "right", "fair": "in part right", "bad": "wrong"}[level]
    marked = [(fact, step.mark.facts[fact.name]) for fact in step.turn.facts if fact.name in step.mark.facts]
    chips = "".join(f'<li class="{"true" if true else "false"}">{escape(_readable(fact))}</li>' for fact, true in marked)
    kept = step.mark.measures.get("preserved")
    if kept is not None and step.output:
        chips += f'<li class="{"true" if kept >= GOOD else "false"}">rest kept {kept:.0%}</li>'
    return f'<div class="verdict"><span class="{level}">{word}</span><ul>{chips}</ul></div>'


def _readable(fact: Fact) -> str:
    """A fact in few words: "1 cyan star", "no red chair", "yellow star right of green circle", "word GOAL"."""
    subject = _phrase(fact.what) if fact.what else ""
    if fact.about == "object":
        number = {"1+": "", "0": "no "}.get(fact.value, f"{fact.value} ")
        return number + subject
    if fact.about == "relation" and fact.other:
        return f"{subject} {fact.value} {_phrase(fact.other)}"
    if fact.about in ("motion", "event"):
        new = f" to {fact.other.colour}" if fact.other and fact.other.colour else ""
        return f"{subject}: {fact.value}{new}"
    return f"{fact.value} background" if fact.about == "background" else f"{fact.about} {fact.value}"


def _phrase(what: What) -> str:
    """The attributes that are worth saying, then the noun, then the place."""
    parts = (what.size, what.texture, what.colour, what.kind, what.place)
    return " ".join(part for part in parts if part not in (None, "solid", "natural"))


def _small(step: Step) -> str:
    parts = [find_task(step.turn.task).about, f"seed {step.seed}", f"{step.seconds:.2f} s"]
    return f'<p class="small">{" · ".join(escape(part) for part in parts)}</p>'


def _medium(path: Path, role: str, step: Step) -> str:
    source, text = escape(path.as_posix()), escape(step.turn.text)
    caption = f"<figcaption>{role}</figcaption>"
    if path.suffix == ".mp4":
        return (
            f'<figure class="{role}"><video src="{source}" autoplay loop muted playsinline aria-label="{text}"></video>{caption}</figure>'
        )
    return f'<figure class="{role}"><span class="frame"><img src="{source}" alt="{text}">{_box(step)}</span>{caption}</figure>'


def _box(step: Step) -> str:
    """The box that a text answer names, drawn over the picture it is about."""
    found = BOX.fullmatch(step.answer.strip()) if isinstance(step.answer, str) else None
    if not found:
        return ""
    left, top, right, bottom = (min(100, int(value)) for value in found.groups())
    return f'<i class="box" style="left:{left}%;top:{top}%;width:{max(0, right - left)}%;height:{max(0, bottom - top)}%"></i>'


def _anchor(section: Section) -> str:
    return section.title.lower().replace(" ", "-")


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M" if parameters < 1e9 else f"{parameters / 1e9:.2f} B"
