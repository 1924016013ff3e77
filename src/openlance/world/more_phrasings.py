"""Further ways of saying what `phrasings` says, which only training is worded with (`data.world`): what is evaluated stays as it was, and
none of it is said here."""

MORE: dict[str, tuple[str, ...]] = {
    "picture": ("a painting of {x}", "{x} in a picture", "a sketch of {x}"),
    "clip": ("{x} in a video", "a recording of {x}", "let me see a clip of {x}"),
    "first frame": ("what comes next: {x}", "make a video of it: {x}", "go on with {x}"),
    "place": ("near the {p}", "on the {p} side", "towards the {p}"),
    "background": ("before a {b} background", "{b} being the background", "and {b} all around"),
    "scenery": ("before {b}", "{b} being behind it", "with the background showing {b}"),
    "left of": ("to the right of {a}, {b}", "on the left side of {b}, {a}", "at the left of {b}, {a}"),
    "above": ("below {a}, {b}", "over {b}, {a}", "higher than {b}, {a}"),
    "count": ("{n} similar {x}", "{n} single {x}", "as many as {n} {x}"),
    "colour after": ("shown in {c}", "that is {c}", "with {c} as its colour"),
    "striped after": ("that is striped", "showing stripes", "having a pattern of stripes"),
    "dotted after": ("that is dotted", "showing dots", "having a pattern of dots"),
    # a motion's word is all that a phrasing says: those of the held-out ones are met here in other sentences, or nothing would tell what
    # they mean
    "left": (
        "{x} wandering to the left", "{x} shifting left", "{x} that goes left", "{x} gliding left", "{x} that heads to the left",
    ),
    "right": (
        "{x} wandering to the right", "{x} shifting right", "{x} that goes right", "{x} gliding right", "{x} that heads to the right",
    ),
    "up": ("{x} climbing", "{x} shifting up", "{x} that goes up", "{x} gliding upward", "{x} that heads up"),
    "down": ("{x} dropping", "{x} shifting down", "{x} that goes down", "{x} gliding downward", "{x} that heads down"),
    "grow": (
        "{x} expanding", "{x} growing in size", "{x} that gets bigger", "{x} that swells", "{x} whose size is increasing",
        "{x} swelling and swelling", "{x} that has an increasing size",
    ),
    "shrink": (
        "{x} contracting", "{x} shrinking in size", "{x} that gets smaller", "{x} that loses its size", "{x} whose size is decreasing",
        "{x} losing some of its size", "{x} that has a decreasing size",
    ),
    "spin": (
        "{x} revolving", "{x} spinning around", "{x} that rotates", "{x} that whirls", "{x} whose rotation goes on",
        "{x} that is whirling around", "{x} that makes a rotation",
    ),
    "blink": (
        "{x} turning on and off", "{x} flickering", "{x} that goes on and off", "{x} that switches on and off", "{x} switching off and on",
    ),
    "bounce": (
        "{x} moving up and down", "{x} springing", "{x} that jumps up and down", "{x} that leaps", "{x} leaping again and again",
    ),
    "still": (
        "{x} keeping still", "{x} without motion", "{x} that rests", "{x} that stays put", "{x} that holds still", "{x} holding its place",
    ),
    "appear": (
        "{x} becoming visible", "{x} turning up", "{x} that is there all at once", "{x} that comes into view", "{x} that emerges",
        "{x} coming and then in view", "{x} that is emerging",
    ),
    "disappear": (
        "{x} becoming invisible", "{x} fading away", "{x} that is gone all at once", "{x} that goes out of view", "{x} that fades",
        "{x} going and then out of view", "{x} fading out",
    ),
    "recolour": (
        "{x} getting {c}", "{x} going {c}", "{x} that changes to {c}", "{x} that shifts to {c}", "{x} that switches to {c}",
        "{x} shifting its colour to {c}", "{x} switching its colour to {c}",
    ),
    "stop": (
        "{x} and then resting", "{x} and halting then", "{x} up to a stop", "{x} that comes to a halt", "{x} that comes to rest",
        "{x} and then to a halt", "{x} and then at rest",
    ),
    # questions
    "ask what": ("Say which object is {p}.", "What stands {p}?", "There is an object {p}: what is it?"),
    "ask colour": ("Say which colour {x} has.", "{x} has which colour?", "Is {x} of which colour?"),
    "ask count": ("Say how many {x} there are.", "How many {x} stand here?", "The number of {x}, please."),
    "ask position": ("Say where {x} is.", "Where does {x} stand?", "In what place is {x}?"),
    "ask texture": (
        "Say which pattern {x} has.", "Is {x} patterned, and how?", "In which way is {x} patterned?", "With which pattern is {x} covered?",
    ),
    "ask exists": ("Say whether there is {x}.", "Is {x} here?", "Is there {x} anywhere?"),
    "ask bigger": ("Say which is bigger, {a} or {b}.", "{a} or {b}: which is larger?", "Which has more size, {a} or {b}?"),
    "ask relation": (
        "Say whether {a} is {r} {b}.", "{a} is {r} {b}, is it?", "Is the place of {a} {r} {b}?", "Is the location of {a} {r} {b}?",
    ),
    # questions about clips
    "ask direction": ("Say which way {x} goes.", "In what direction is {x} going?", "{x}: which way does it move?"),
    "ask action": ("Say what {x} does.", "How does {x} move or change?", "{x}: what does it do?"),
    "ask who": ("Say which object {v}.", "Find the object that {v}.", "There is an object that {v}: which one?"),
    "ask count moving": ("How many are in motion?", "Say how many objects move.", "Count what moves."),
    "ask order": ("Say which {e} first, {a} or {b}.", "{a} or {b}: which {e} first?", "What {e} sooner, {a} or {b}?"),
    "ask new colour": ("Say which colour {x} turns into.", "Which colour does {x} get?", "In what colour does {x} end?"),
    "ask counterfactual": (
        "If {x} had stayed where it was, where would it be?", "Say where {x} would be without moving.",
        "Where would {x} stand if nothing moved?",
    ),
    # edits
    "edit colour": ("Let the colour of {x} be {c}.", "I want {x} to be {c}.", "Show {x} in {c}."),
    "edit kind": (
        "I want {x} to become {y}.", "Morph {x} into {y}.", "Let {x} change into {y}.", "Let {x} be reshaped into {y}.",
    ),
    "edit texture": ("I want {x} to be {t}.", "Show {x} {t}.", "Let the pattern of {x} be {t}."),
    "edit add": ("I want {y} {p}.", "Paint {y} {p}.", "Let there be {y} {p}."),
    "edit remove": ("Cut {x} out.", "I do not want {x}.", "Wipe {x} away."),
    "edit replace": ("Switch {x} for {y}.", "Take {x} away and put {y} there.", "Let {y} stand where {x} is."),
    "edit background": ("Have {b} as the background.", "I want {b} as the background.", "Put {b} behind everything."),
    "edit bigger": ("Let {x} grow.", "I want {x} to be bigger.", "Expand {x}.", "Let {x} be scaled up.", "Scale {x} to a larger size."),
    "edit smaller": (
        "Let {x} shrink.", "I want {x} to be smaller.", "Contract {x}.", "Let {x} be scaled down.", "Scale {x} to a smaller size.",
    ),
    "edit word": ('I want the text to be "{w}".', 'Turn the word into "{w}".', 'Put "{w}" in place of the word.'),
    "edit add word": ('Let it say "{w}" in {c} {p}.', 'I want the word "{w}" in {c} {p}.', 'Show the {c} text "{w}" {p}.'),
    "edit word colour": ("I want the word to be {c}.", "Let the colour of the text be {c}.", "Show the word in {c}."),
    # subjects
    "subject": ("what is shown here {r}", "again this object {r}", "the thing of the picture {r}"),
    "subject clip": ("again this object {r}", "a recording of this object {r}", "let me see the same object {r}"),
}  # fmt: skip
