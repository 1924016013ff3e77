"""Laws of the sequence: positions, masks, packing, binding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openlance.errors import RequestError
from openlance.sequence.bind import Binder, MediumGrids
from openlance.sequence.pack import pack
from openlance.sequence.positions import base_positions, positions, spans_of
from openlance.sequence.segment import CONDITION_ROLES, PROMPT_ROLES, Kind, Role, Segment, without
from openlance.sequence.tasks import TASKS, find_task, infer_task
from openlance.sequence.template import OWN_WORDING
from openlance.sequence.tokenizer import Tokenizer

FRAME = (1, 2, 3)
grids = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
texts = st.builds(lambda n, role: Segment(Kind.TEXT, role, (9,) * n), st.integers(1, 5), st.sampled_from([Role.TEMPLATE, Role.PROMPT]))
media = st.builds(
    lambda kind, role, grid: Segment(kind, role, FRAME, grid),
    st.sampled_from([Kind.VISION, Kind.LATENT]),
    st.sampled_from([Role.SOURCE, Role.REFERENCE]),
    grids,
)
targets = st.builds(lambda grid: Segment(Kind.LATENT, Role.TARGET, FRAME, grid), grids)
sequences = st.builds(
    lambda first, rest, end: [first, *rest, *end], texts, st.lists(texts | media, max_size=5), st.lists(targets, max_size=1)
)


def slow_mask(segments: list[Segment]) -> torch.Tensor:
    """Token by token, as the rule reads."""
    owner = [i for i, segment in enumerate(segments) for _ in range(len(segment))]
    mask = torch.zeros(len(owner), len(owner), dtype=torch.bool)
    for q in range(len(owner)):
        for k in range(len(owner)):
            same = owner[q] == owner[k]
            key = segments[owner[k]]
            hidden = key.kind is Kind.LATENT and key.role is Role.TARGET and not same
            mask[q, k] = (k <= q or (same and key.kind is not Kind.TEXT)) and not hidden
    return mask


@given(segments=sequences)
def test_mask_equals_the_rule_read_token_by_token(segments: list[Segment]) -> None:
    packed = pack([segments], [positions(segments)])
    assert torch.equal(packed.mask(), slow_mask(segments))


@given(first=sequences, second=sequences)
@settings(max_examples=40)
def test_packing_isolates_documents(first: list[Segment], second: list[Segment]) -> None:
    places = [positions(first), positions(second)]
    packed = pack([first, second], places)
    cut = places[0].shape[1]
    mask = packed.mask()
    assert torch.equal(mask[:cut, :cut], slow_mask(first))
    assert torch.equal(mask[cut:, cut:], slow_mask(second))
    assert not mask[:cut, cut:].any()
    assert not mask[cut:, :cut].any()
    assert torch.equal(packed.part(cut, len(packed)).ids, pack([second], [places[1]]).ids)


def slow_base(segments: list[Segment]) -> torch.Tensor:
    rows: list[tuple[int, int, int]] = []
    cursor = 0
    for segment in segments:
        if segment.grid is None:
            for _ in range(len(segment)):
                rows.append((cursor,) * 3)
                cursor += 1
            continue
        rows.append((cursor,) * 3)
        start, (t, h, w) = cursor + 1, segment.grid
        cells = [(start + 2 * a, start + b, start + c) for a in range(t) for b in range(h) for c in range(w)]
        cursor = max(max(cell) for cell in cells) + 1
        rows += [*cells, (cursor,) * 3]
        cursor += 1
    return torch.tensor(rows).T


@given(segments=sequences)
def test_base_positions_equal_the_rule(segments: list[Segment]) -> None:
    assert torch.equal(base_positions(segments), slow_base(segments))


@given(segments=sequences, vision=st.integers(500, 3000), reference=st.integers(500, 3000))
def test_anchors_move_only_what_they_name(segments: list[Segment], vision: int, reference: int) -> None:
    base, placed = base_positions(segments), positions(segments, vision, reference, anchor_understanding=True)
    spans = spans_of(segments)
    visions = [span for s, span in zip(segments, spans, strict=True) if s.kind is Kind.VISION]
    references = [span for s, span in zip(segments, spans, strict=True) if s.kind is Kind.LATENT and s.role is Role.REFERENCE]
    sources = [s for s in segments if s.kind is Kind.LATENT and s.role is Role.SOURCE]
    for segment, span in zip(segments, spans, strict=True):
        if segment.kind is Kind.TEXT or (segment.kind is Kind.LATENT and segment.role is Role.SOURCE):
            assert torch.equal(placed[:, span], base[:, span])
        if segment.kind is Kind.VISION or segment.role is Role.REFERENCE:
            assert torch.equal(placed[1:, span], base[1:, span])
        if segment.role is Role.TARGET:
            aligned = len(sources) == 1 and len(sources[0]) == len(segment)
            assert aligned or torch.equal(placed[:, span], base[:, span])
    for group, anchor in ((visions, vision), (references, reference)):
        if group:
            assert int(placed[0, group[0].start]) == anchor


@given(segments=sequences)
def test_dropping_roles_drops_nothing_else(segments: list[Segment]) -> None:
    assert without(segments, frozenset()) == segments
    kept = without(segments, PROMPT_ROLES)
    assert kept == [s for s in segments if s.role is not Role.PROMPT]
    assert without(kept, CONDITION_ROLES) == without(segments, CONDITION_ROLES)


@pytest.fixture(scope="module")
def tokenizer(golden_dir) -> Tokenizer:
    return Tokenizer.load(golden_dir)


def test_tokenizer_golden(tokenizer: Tokenizer, golden) -> None:
    case = golden("misc")
    for row in case["tokenizer"]:
        assert list(tokenizer.encode_template(row["text"])) == row["ids"]
        assert tokenizer.decode(row["ids"]) == row["decoded"]
    assert len(tokenizer) == case["len_tokenizer"]


def test_special_tokens_inside_a_prompt_are_text(tokenizer: Tokenizer) -> None:
    for special in tokenizer.special:
        ids = tokenizer.encode(f"say {special} now")
        assert not set(ids) & set(tokenizer.special.values())
        assert tokenizer.decode(ids) == f"say {special} now"


@given(text=st.text(max_size=60))
def test_any_text_survives(tokenizer: Tokenizer, text: str) -> None:
    import unicodedata

    assert tokenizer.decode(tokenizer.encode(text)) == unicodedata.normalize("NFC", text)


@given(text=st.text(max_size=40))
def test_streaming_gives_the_same_text(tokenizer: Tokenizer, text: str) -> None:
    import unicodedata

    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in tokenizer.encode(text)]
    assert "".join(pieces) + stream.finish() == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("name", sorted(TASKS))
def test_binding_follows_the_table(tokenizer: Tokenizer, name: str) -> None:
    task = TASKS[name]
    binder = Binder(tokenizer, OWN_WORDING)
    given_media = [MediumGrids((1, 2, 2), (1, 2, 3))] * task.media[0]
    target = None if task.output == "text" else (1, 2, 3)
    segments = binder.bind(task, "a cat", given_media, target)
    blocks = [segment for segment in segments if segment.medium is not None]
    assert [segment.kind for segment in blocks] == list(task.blocks) * len(given_media)
    assert [segment.role for segment in segments].count(Role.PROMPT) == 1
    produced = [segment for segment in segments if segment.role is Role.TARGET]
    assert [segment.clean_frames for segment in produced] == ([] if target is None else [task.clean_frames])
    with pytest.raises(RequestError, match="takes"):
        binder.bind(task, "a cat", [MediumGrids()] * (task.media[1] + 1), target)


def test_an_empty_prompt_has_no_prompt_segment(tokenizer: Tokenizer) -> None:
    segments = Binder(tokenizer, OWN_WORDING).bind(TASKS["t2i"], "", (), (1, 2, 2))
    assert all(len(segment) > 0 for segment in segments)
    assert without(segments, PROMPT_ROLES) == segments


def test_tasks_are_found_by_name_and_by_kind() -> None:
    assert find_task("x2t_video") is TASKS["understand"]
    assert infer_task("video", ("image",), first_frame=True) is TASKS["i2v"]
    assert infer_task("image", ("image", "image")) is TASKS["image_edit"]
    assert infer_task("image", ("image",), subject=True) is TASKS["subject_image"]
    assert infer_task("text", ()) is TASKS["text"]
    with pytest.raises(RequestError, match="no task 'paint'"):
        find_task("paint")
    with pytest.raises(RequestError, match="no task makes image"):
        infer_task("image", ("video",))
