"""Cases that answer: prompt ids, prefill, logits of every generated token, greedy ids."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from openlance.engine.engine import Engine
from openlance.engine.prefill import MediumTokens, prefill
from openlance.engine.prepare import Plan, branch_of, encode_medium, plan
from openlance.engine.request import Request, TextSampling
from openlance.engine.text import decode_text
from openlance.model.lance import LanceModel
from openlance.sequence.bind import Binder
from openlance.sequence.pack import pack
from openlance.sequence.segment import Kind, Role, Segment
from openlance.sequence.tasks import find_task
from openlance.sequence.tokenizer import Tokenizer
from openlance.verify.generation import compare_vision, drive, resolution_of
from openlance.verify.golden import Case, Golden, Wording
from openlance.verify.sequence import modality, modes, states


@torch.inference_mode()
def check_understanding(golden: Golden, case: Case) -> None:
    """Compare everything that an understanding case holds."""
    model, binder = golden.model(case), golden.binder
    case.given("rendered_text"), case.given("entries")
    wording = golden.wording(case.scalars)
    task = find_task(case.given("task"))
    request = Request(
        task=task,
        prompt=wording.prompt,
        media=tuple(golden.clip(key) for key in case.given("raw_media", {}).values()),
        system=wording.system,
        resolution=resolution_of(case),
        text=TextSampling(max_new_tokens=case.given("max_length") or len(case.tensor("generated_ids"))),
    )
    planned = plan(model, binder, request)
    media = [encode_medium(model, medium) for medium in planned.media]
    compare_vision(case, model, planned, media)
    _compare_sequence(case, model, binder, planned, wording)
    _compare_answer(case, model, binder.tokenizer, planned, media)
    tokenizer = binder.tokenizer
    if case.scalars.get("eos_token_id") == tokenizer.end_of_turn:
        (result,) = Engine(model, binder).run([request])
        ids = [token for token in case.tensor("generated_ids").tolist() if token != tokenizer.end_of_turn]
        case.expect("engine.ids", list(result.token_ids), ids)


def _compare_sequence(case: Case, model: LanceModel, binder: Binder, planned: Plan, wording: Wording) -> None:
    """Prompt ids; ids, kinds and segments of the sequence with its recorded answer; positions up to the last generated token."""
    prompt = list(planned.branches[0].segments)
    packed = planned.branches[0].packed()
    case.compare("prompt_ids", packed.ids)
    case.compare("prompt_len", len(packed))
    case.compare("prompt_text", binder.tokenizer.decode(packed.ids.tolist()))
    whole = [*prompt, *binder.answer(wording.answer)]
    answered = pack([whole], [branch_of(model.config, whole).positions])
    case.compare("input_ids_full", answered.ids)
    case.compare("modality", modality(whole, marks_prompt=False))
    case.compare("vit_token_indexes", torch.nonzero(answered.vision)[:, 0])
    lengths, kinds = segments_of(whole)
    case.compare("split_lens", lengths)
    case.compare("attn_modes", kinds)
    merge = model.vision.merge_size
    case.compare("video_grid_thw", [[t, h * merge, w * merge] for t, h, w in (s.grid for s in prompt if s.grid is not None)])
    following = packed.positions[:, -1].max() + 1 + torch.arange(len(case.tensor("generated_ids"))).expand(3, -1)
    case.compare("position_ids_prompt_and_generated", torch.cat([packed.positions, following], 1))


def merged_causal(lengths: Sequence[int], kinds: Sequence[str]) -> tuple[list[int], list[str]]:
    """Neighbouring causal segments as one: where such a run is cut changes nothing about who sees whom."""
    sizes: list[int] = []
    names: list[str] = []
    for size, kind in zip(lengths, kinds, strict=True):
        if names and kind == names[-1] == "causal":
            sizes[-1] += size
        else:
            sizes.append(size)
            names.append(kind)
    return sizes, names


def _compare_answer(case: Case, model: LanceModel, tokenizer: Tokenizer, planned: Plan, media: list[MediumTokens]) -> None:
    """Greedy decoding token by token on the prefilled context, with the case's own end-of-turn id."""
    case.compare("vocab_size_effective", len(tokenizer))
    case.compare("vocab_size_config", model.config.transformer.vocab_size)
    tokenizer = copy.copy(tokenizer)
    end = case.given("eos_token_id", tokenizer.end_of_turn)
    tokenizer.end_of_turn = end
    (context,), first = drive(model, prefill(model, planned.branches, media, want_logits=True))
    assert first is not None
    logits: list[Tensor] = [first]
    position = int(planned.branches[0].positions[:, -1].max()) + 1

    def keep(outputs: Sequence[Tensor | None]) -> None:
        logits.extend(output for output in outputs if output is not None)

    _, ids = drive(model, decode_text(model, tokenizer, planned.request, context, first, position), keep)
    generated = [*ids, end] if len(ids) < len(logits) else ids
    case.compare("generated_ids", torch.tensor(generated))
    if "generated_ids" in case.scalars:
        case.expect("generated_ids", generated, case.scalars["generated_ids"])
    case.compare("generated_text", tokenizer.decode(generated))
    rows = torch.stack(logits)
    case.compare("logits", rows)
    best = rows[:, : len(tokenizer)].topk(2, -1).values
    case.compare("top2_margin_min", float((best[:, 0] - best[:, 1]).min()))
    whole = [*planned.branches[0].segments, Segment(Kind.TEXT, Role.TARGET, tuple(generated))]
    packed = pack([whole], [branch_of(model.config, whole).positions])
    tokens = [medium.vision for medium in media if medium.vision is not None]
    none = torch.zeros(0, model.config.latent_channels)
    _, hidden = states(model, packed, none, torch.zeros(0), torch.cat(tokens) if tokens else None)
    uncached = model.logits(hidden[-len(generated) - 1 : -1])
    case.compare("kv_vs_full_logits_max_abs_diff", float((uncached - rows).abs().max()))
    case.compare("nocache_generated_same", uncached[:, : len(tokenizer)].argmax(-1).tolist() == generated)


def segments_of(segments: Sequence[Segment]) -> tuple[list[int], list[str]]:
    """Lengths and modes of segments, neighbouring causal ones merged."""
    return merged_causal([len(segment) for segment in segments], modes(segments))
