"""The sentences of the world. Every group has at least eight phrasings; the last two of each are never seen in training."""

import random
from dataclasses import dataclass

from openlance.world.more_phrasings import MORE
from openlance.world.splits import splits

PHRASINGS: dict[str, tuple[str, ...]] = {
    # prompts and captions
    "picture": (
        "{x}", "a picture of {x}", "an image of {x}", "a drawing of {x}", "there is {x}", "draw {x}", "show me {x}",
        "a simple scene with {x}", "please paint {x}", "I would like to see {x}", "create an image showing {x}",
        "an illustration of {x}",
    ),
    "clip": (
        "{x}", "a video of {x}", "a clip of {x}", "a short video with {x}", "an animation of {x}", "show me a video of {x}",
        "animate {x}", "a moving picture of {x}", "film {x}", "create a short clip of {x}", "a little movie of {x}",
    ),
    "first frame": (
        "{x}", "animate this picture: {x}", "make it move: {x}", "from this first frame, {x}", "continue the picture: {x}",
        "bring it to life: {x}", "now {x}", "turn the image into a video where {x}", "starting from this image, {x}",
        "let the scene play out: {x}",
    ),
    "place": (
        "at the {p}", "in the {p}", "in the {p} part", "at the {p} of the picture", "in the {p} area", "placed at the {p}",
        "at the very {p}", "somewhere in the {p}", "located at the {p}", "in the {p} region",
    ),
    "background": (
        "on a {b} background", "on {b}", "against a {b} background", "with a {b} background", "over a {b} background",
        "on a plain {b} background", "in front of a {b} backdrop", "on a {b} canvas", "set against plain {b}",
        "with {b} behind everything",
    ),
    "scenery": (
        "in front of {b}", "with {b} in the background", "with {b} behind", "against {b}", "with {b} as the background", "over {b}",
        "and {b} behind it all", "and the background is {b}", "set against {b}", "with a backdrop of {b}",
    ),
    "word": (
        'the word "{w}" in {c} {p}', '"{w}" written in {c} {p}', 'the text "{w}" in {c} {p}', '{c} letters saying "{w}" {p}',
        'the {c} word "{w}" {p}', 'a sign reading "{w}" in {c} {p}', '"{w}" in {c} letters {p}', 'the {c} text "{w}" {p}',
        'the letters "{w}" in {c} {p}', 'a {c} title that says "{w}" {p}',
    ),
    "word place": (
        "at the {p}", "across the {p}", "along the {p}", "in the {p} part", "near the {p}", "on the {p} third", "at the very {p}",
        "running across the {p}", "over the {p} area", "toward the {p}",
    ),
    "left of": (
        "{a} to the left of {b}", "{a} left of {b}", "{a} on the left side of {b}", "{b} to the right of {a}", "{a} at the left of {b}",
        "{b} with {a} to its left", "{a} on the left and {b} on the right", "{b} on the right of {a}", "{a} standing left of {b}",
        "to the left of {b}, {a}",
    ),
    "above": (
        "{a} above {b}", "{a} over {b}", "{b} below {a}", "{b} under {a}", "{a} on top and {b} underneath", "{b} with {a} above it",
        "{a} higher than {b}", "{b} beneath {a}", "{a} hovering above {b}", "above {b}, {a}",
    ),
    "count": (
        "{n} {x}", "exactly {n} {x}", "a group of {n} {x}", "a set of {n} {x}", "{n} separate {x}", "just {n} {x}", "a total of {n} {x}",
        "{n} different {x}", "{n} individual {x}", "a collection of {n} {x}",
    ),
    "colour after": (
        "in {c}", "coloured {c}", "of {c} colour", "painted {c}", "with a {c} colour", "in the colour {c}", "coloured in {c}",
        "drawn in {c}", "having the colour {c}", "tinted {c}",
    ),
    "striped after": (
        "with stripes", "with a striped pattern", "with a striped texture", "covered in stripes", "in stripes", "with broad stripes",
        "full of stripes", "with stripes on it", "bearing stripes", "marked with stripes",
    ),
    "dotted after": (
        "with dots", "with a dotted pattern", "with a dotted texture", "covered in dots", "in dots", "with big dots", "full of dots",
        "with dots on it", "bearing dots", "marked with dots",
    ),
    # motions: {x} is a noun phrase with its article
    "left": (
        "{x} moving to the left", "{x} moves left", "{x} sliding left", "{x} going left", "{x} moving left",
        "{x} that moves to the left", "{x} travels to the left", "{x} drifting to the left", "{x} glides to the left",
        "{x} heading left",
    ),
    "right": (
        "{x} moving to the right", "{x} moves right", "{x} sliding right", "{x} going right", "{x} moving right",
        "{x} that moves to the right", "{x} travels to the right", "{x} drifting to the right", "{x} glides to the right",
        "{x} heading right",
    ),
    "up": (
        "{x} moving up", "{x} moves up", "{x} rising", "{x} going up", "{x} moving upward", "{x} that moves upward", "{x} travels up",
        "{x} floating up", "{x} glides up", "{x} heading upward",
    ),
    "down": (
        "{x} moving down", "{x} moves down", "{x} falling", "{x} going down", "{x} moving downward", "{x} that moves downward",
        "{x} travels down", "{x} sinking", "{x} glides down", "{x} heading downward",
    ),
    "grow": (
        "{x} growing", "{x} grows", "{x} getting bigger", "{x} getting larger", "{x} that grows", "{x} becoming bigger",
        "{x} gets larger", "{x} becomes larger", "{x} swelling up", "{x} increasing in size",
    ),
    "shrink": (
        "{x} shrinking", "{x} shrinks", "{x} getting smaller", "{x} becoming smaller", "{x} that shrinks", "{x} gets smaller",
        "{x} becomes smaller", "{x} getting tiny", "{x} losing size", "{x} decreasing in size",
    ),
    "spin": (
        "{x} spinning", "{x} spins", "{x} rotating", "{x} turning around", "{x} that spins", "{x} rotates", "{x} spinning in place",
        "{x} turns around", "{x} whirling", "{x} in rotation",
    ),
    "blink": (
        "{x} blinking", "{x} blinks", "{x} flashing", "{x} going on and off", "{x} that blinks", "{x} flashes",
        "{x} blinking on and off", "{x} that flashes", "{x} flickering on and off", "{x} switching on and off",
    ),
    "bounce": (
        "{x} bouncing", "{x} bounces", "{x} jumping up and down", "{x} hopping", "{x} that bounces", "{x} bouncing up and down",
        "{x} jumps up and down", "{x} that hops", "{x} springing up and down", "{x} leaping up and down",
    ),
    "still": (
        "{x} standing still", "{x} not moving", "{x} staying still", "{x} at rest", "{x} that does not move", "{x} resting",
        "{x} staying in place", "{x} standing there", "{x} staying put", "{x} holding still",
    ),
    "appear": (
        "{x} appearing", "{x} appears", "{x} that appears", "{x} showing up", "{x} suddenly appearing", "{x} that shows up",
        "{x} popping up", "{x} that suddenly appears", "{x} coming into view", "{x} emerging",
    ),
    "disappear": (
        "{x} disappearing", "{x} disappears", "{x} that disappears", "{x} vanishing", "{x} suddenly disappearing", "{x} that vanishes",
        "{x} vanishes", "{x} that suddenly disappears", "{x} going out of view", "{x} fading from view",
    ),
    "recolour": (
        "{x} turning {c}", "{x} turns {c}", "{x} that turns {c}", "{x} changing to {c}", "{x} becoming {c}", "{x} changes colour to {c}",
        "{x} that becomes {c}", "{x} changing its colour to {c}", "{x} shifting to {c}", "{x} switching to {c}",
    ),
    "stop": (
        "{x} and then stopping", "{x} and then it stops", "{x} before stopping", "{x}, then stopping", "{x} until it stops",
        "{x} and stopping", "{x}, then standing still", "{x} and stopping halfway", "{x} and coming to a halt",
        "{x} before coming to rest",
    ),
    # questions
    "ask what": (
        "What is {p}?", "What is shown {p}?", "Which object is {p}?", "What do you see {p}?", "What object is {p}?",
        "Name the object {p}.", "What can be seen {p}?", "Tell me what is {p}.", "Identify the object {p}.",
        "What kind of object is {p}?",
    ),
    "ask what one": (
        "What is in the picture?", "What is shown?", "What object is this?", "What do you see?", "Which object is shown?",
        "Name the object.", "What can be seen here?", "What is this?", "Identify the object.", "What does the picture show?",
    ),
    "ask colour": (
        "What colour is {x}?", "What is the colour of {x}?", "Which colour does {x} have?", "What color is {x}?", "Which colour is {x}?",
        "Tell me the colour of {x}.", "{x}: which colour?", "In what colour is {x}?", "Name the colour of {x}.",
        "What colour does {x} have?",
    ),
    "ask count": (
        "How many {x} are there?", "How many {x} do you see?", "How many {x} are in the picture?", "Count the {x}.",
        "What is the number of {x}?", "Tell me how many {x} there are.", "How many {x} can be seen?", "How many {x} are shown?",
        "Give the number of {x}.", "What number of {x} is shown?",
    ),
    "ask position": (
        "Where is {x}?", "Where do you see {x}?", "In which part of the picture is {x}?", "What is the position of {x}?",
        "Tell me where {x} is.", "Where in the picture is {x}?", "At which place is {x}?", "Where can {x} be found?",
        "Name the place of {x}.", "Where is {x} located?",
    ),
    "ask texture": (
        "What texture does {x} have?", "What is the texture of {x}?", "Is {x} solid, striped or dotted?", "What pattern does {x} have?",
        "Which pattern is on {x}?", "What is the pattern of {x}?", "Which texture does {x} have?", "Tell me the pattern of {x}.",
        "How is {x} patterned?", "Name the texture of {x}.",
    ),
    "ask exists": (
        "Is there {x}?", "Is there {x} in the picture?", "Do you see {x}?", "Can you see {x}?", "Does the picture show {x}?",
        "Is {x} shown?", "Does the picture contain {x}?", "Is {x} in the picture?", "Can {x} be found here?",
        "Does {x} appear in the picture?",
    ),
    "ask bigger": (
        "Which is bigger, {a} or {b}?", "Which is larger, {a} or {b}?", "What is bigger: {a} or {b}?",
        "Which one is bigger, {a} or {b}?", "Of {a} and {b}, which is larger?", "What is larger, {a} or {b}?",
        "Tell me which is bigger, {a} or {b}.", "Compare {a} and {b}: which is bigger?", "Which has the greater size, {a} or {b}?",
        "Is {a} or {b} the bigger one?",
    ),
    "ask relation": (
        "Is {a} {r} {b}?", "Do you see {a} {r} {b}?", "Is it true that {a} is {r} {b}?", "Can you see {a} {r} {b}?",
        "Tell me: is {a} {r} {b}?", "Does {a} stand {r} {b}?", "Would you say {a} is {r} {b}?", "Is {a} found {r} {b}?",
        "Is {a} located {r} {b}?", "Can {a} be found {r} {b}?",
    ),
    "ask background": (
        "What is the background?", "What does the background show?", "Which background is it?", "What is behind the objects?",
        "Describe the background.", "Tell me the background.", "What kind of background is this?", "What is in the background?",
        "Name the background.", "What is the backdrop?",
    ),
    "ask word": (
        "What does the text say?", "What is written here?", "Read the word.", "Which word is written?", "What word is shown?",
        "Read the text.", "What does it say?", "Tell me the written word.", "Spell out the word you see.", "Transcribe the text.",
    ),
    "ask box": (
        "Give the box of {x}.", "Where exactly is {x}? Give a box.", "Find {x} and give its box.", "Locate {x} with a box.",
        "Draw a box around {x}.", "Give the bounding box of {x}.", "What is the box of {x}?", "Mark {x} with a box.", "Detect {x}.",
        "Return the box around {x}.",
    ),
    "ask caption brief": (
        "Describe the {m} briefly.", "Give a short caption.", "What does the {m} show, in short?", "Write a short description.",
        "Caption this {m}.", "Describe it in a few words.", "Give a brief caption of the {m}.", "Summarise the {m}.",
        "Write a brief caption.", "Sum up what you see.",
    ),
    "ask caption full": (
        "Describe the {m} in detail.", "Give a detailed caption.", "Describe everything in the {m}.", "Write a detailed description.",
        "Describe all you see.", "Describe every object and where it is.", "Give a full description of the {m}.",
        "Caption this {m} in detail.", "Write a thorough caption.", "Tell me everything about this {m}.",
    ),
    # questions about clips
    "ask direction": (
        "Which way does {x} move?", "In which direction does {x} move?", "Where does {x} go?", "What is the direction of {x}?",
        "Which direction does {x} go?", "Tell me which way {x} moves.", "Which way is {x} moving?", "To which side does {x} move?",
        "Name the direction {x} takes.", "Which way does {x} travel?",
    ),
    "ask action": (
        "What does {x} do?", "What is {x} doing?", "What happens to {x}?", "How does {x} behave?", "Tell me what {x} does.",
        "What can you say of {x}?", "What goes on with {x}?", "What is happening to {x}?", "Describe the action of {x}.",
        "Name what {x} does.",
    ),
    "ask who": (
        "What {v}?", "Which object {v}?", "What is the object that {v}?", "Which thing here {v}?", "Tell me which object {v}.",
        "Name the object that {v}.", "Which one {v}?", "What object {v}?", "Identify the object that {v}.", "Which of the objects {v}?",
    ),
    "ask count moving": (
        "How many objects move?", "How many objects are moving?", "Count the moving objects.", "What is the number of moving objects?",
        "How many things move?", "Tell me how many objects move.", "How many of the objects move?",
        "How many moving objects do you see?", "Give the number of moving objects.", "What number of objects is in motion?",
    ),
    "ask order": (
        "Which {e} first, {a} or {b}?", "What {e} first: {a} or {b}?", "Which one {e} first, {a} or {b}?",
        "Which {e} earlier, {a} or {b}?", "What {e} before the other, {a} or {b}?", "Tell me which {e} first, {a} or {b}.",
        "Of {a} and {b}, which {e} first?", "Which object {e} first, {a} or {b}?", "Which is the first that {e}, {a} or {b}?",
        "Who {e} first, {a} or {b}?",
    ),
    "ask new colour": (
        "Which colour does {x} turn?", "What colour does {x} become?", "What colour is {x} at the end?",
        "What is the new colour of {x}?", "Which colour does {x} change to?", "To what colour does {x} change?",
        "Tell me the last colour of {x}.", "What is the final colour of {x}?", "Which colour does {x} end up with?",
        "What colour does {x} have in the end?",
    ),
    "ask counterfactual": (
        "Where would {x} be at the end if it had not moved?", "If {x} stood still, where would it be?",
        "Without moving, where would {x} be?", "If {x} never moved, where would it end?", "Where would {x} be if it did not move?",
        "Suppose {x} stays still: where is it at the end?", "If nothing moved, where would {x} be?",
        "Where would {x} be now without its motion?", "Imagine {x} did not move: where would it be?",
        "Had {x} not moved, where would it be?",
    ),
    "choices": (
        "{q} Choose from: {o}.", "{q} Options: {o}.", "{q} Pick one: {o}.", "{q} Is it one of {o}?", "{q} Select from {o}.", "{q} ({o})",
        "{q} Possible answers: {o}.", "{q} The options are {o}.", "{q} Choices: {o}.", "{q} Answer with one of {o}.",
    ),
    # edits
    "edit colour": (
        "Make {x} {c}.", "Change the colour of {x} to {c}.", "Turn {x} {c}.", "Paint {x} {c}.", "Colour {x} {c}.", "{x} should be {c}.",
        "Change {x} to {c}.", "Let {x} be {c}.", "Recolour {x} in {c}.", "Give {x} a {c} colour.",
    ),
    "edit kind": (
        "Turn {x} into {y}.", "Make {x} {y}.", "Change {x} into {y}.", "Change {x} to {y}.", "{x} should become {y}.",
        "Let {x} become {y}.", "Transform {x} into {y}.", "Make {y} out of {x}.", "Convert {x} to {y}.", "Reshape {x} into {y}.",
    ),
    "edit texture": (
        "Make {x} {t}.", "Turn {x} {t}.", "Change the texture of {x} to {t}.", "Change the pattern of {x} to {t}.", "{x} should be {t}.",
        "Let {x} be {t}.", "Make the pattern of {x} {t}.", "Give {x} a {t} pattern.", "Give {x} a {t} texture.", "Render {x} {t}.",
    ),
    "edit add": (
        "Add {y} {p}.", "Put {y} {p}.", "Place {y} {p}.", "Insert {y} {p}.", "Draw {y} {p}.", "Add {y} to the picture {p}.",
        "Now add {y} {p}.", "There should be {y} {p}.", "Include {y} {p}.", "Set {y} {p}.",
    ),
    "edit remove": (
        "Remove {x}.", "Delete {x}.", "Erase {x}.", "Take away {x}.", "Get rid of {x}.", "Take {x} out.", "Remove {x} from the picture.",
        "Make {x} disappear.", "Drop {x}.", "Leave {x} out.",
    ),
    "edit replace": (
        "Replace {x} with {y}.", "Swap {x} for {y}.", "Put {y} in place of {x}.", "Exchange {x} for {y}.", "Replace {x} by {y}.",
        "Use {y} instead of {x}.", "Put {y} where {x} is.", "Instead of {x}, show {y}.", "Substitute {y} for {x}.", "Trade {x} for {y}.",
    ),
    "edit background": (
        "Change the background to {b}.", "Make the background {b}.", "Set the background to {b}.", "Turn the background into {b}.",
        "The background should be {b}.", "Replace the background with {b}.", "Use {b} as the background.", "Let the background be {b}.",
        "Switch the background to {b}.", "Swap the background for {b}.",
    ),
    "edit bigger": (
        "Make {x} bigger.", "Make {x} larger.", "Enlarge {x}.", "Increase the size of {x}.", "{x} should be bigger.",
        "Let {x} be larger.", "Make {x} large.", "Change {x} to a larger size.", "Scale {x} up.", "Blow up {x}.",
    ),
    "edit smaller": (
        "Make {x} smaller.", "Shrink {x}.", "Make {x} small.", "Decrease the size of {x}.", "{x} should be smaller.",
        "Let {x} be smaller.", "Reduce the size of {x}.", "Change {x} to a smaller size.", "Scale {x} down.", "Reduce {x}.",
    ),
    "edit word": (
        'Change the word to "{w}".', 'Replace the word with "{w}".', 'Change the text to "{w}".', 'Make the text say "{w}".',
        'The word should be "{w}".', 'Write "{w}" instead of the word.', 'Replace the text with "{w}".', 'Let the text read "{w}".',
        'Switch the word to "{w}".', 'Rewrite the text as "{w}".',
    ),
    "edit add word": (
        'Write "{w}" in {c} {p}.', 'Add the word "{w}" in {c} {p}.', 'Put the word "{w}" in {c} {p}.', 'Add the text "{w}" in {c} {p}.',
        'Add the {c} word "{w}" {p}.', 'Write the word "{w}" in {c} {p}.', 'Put the {c} text "{w}" {p}.', 'Now write "{w}" in {c} {p}.',
        'Print "{w}" in {c} {p}.', 'Insert the {c} word "{w}" {p}.',
    ),
    "edit word colour": (
        "Make the word {c}.", "Change the colour of the word to {c}.", "Turn the text {c}.", "Paint the word {c}.",
        "The text should be {c}.", "Make the text {c}.", "Colour the word {c}.", "Let the word be {c}.", "Recolour the text in {c}.",
        "Give the word a {c} colour.",
    ),
    # subjects: the picture shows it, the words do not name it
    "subject": (
        "this object {r}", "the same object {r}", "the object of the picture {r}", "it {r}", "a new picture of this object {r}",
        "show the same object {r}", "draw this object {r}", "the given object {r}", "put the shown object {r}", "the subject {r}",
    ),
    "subject clip": (
        "a video of this object {r}", "the same object {r}", "the object of the picture {r}", "this object {r}",
        "a clip of the same object {r}", "animate the same object {r}", "a new video of this object {r}", "the given object {r}",
        "film the shown object {r}", "the subject {r}",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Voice:
    """Chooses words: `held` False speaks the phrasings of training, True only the held-out ones; `plain` always says a thing one way;
    `more` knows more ways."""

    rng: random.Random
    held: bool = False
    plain: bool = False
    more: bool = False

    def say(self, group: str, **parts: str) -> str:
        """One phrasing of a group, filled in."""
        last = splits().held_phrasings
        choices = PHRASINGS[group][-last:] if self.held else PHRASINGS[group][:-last] + (MORE.get(group, ()) if self.more else ())
        return (choices[0] if self.plain else self.rng.choice(choices)).format(**parts)

    def varies(self, share: float) -> bool:
        """True in this share of cases: time to leave the usual way of saying it."""
        return not self.plain and self.rng.random() < share
