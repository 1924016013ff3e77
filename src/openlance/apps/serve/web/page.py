"""The page: one conversation, a gallery beside it, settings folded away. What happens in a turn is in `turns`."""

import os
from collections.abc import AsyncIterator
from importlib import resources
from typing import TYPE_CHECKING, Any

from openlance.apps.serve.guard import Keys
from openlance.apps.serve.media import data_url
from openlance.apps.serve.service import Service
from openlance.apps.serve.web.conversation import Conversation
from openlance.apps.serve.web.turns import EDIT, IMAGE, MODES, VIDEO, Settings, Wish, run_turn

if TYPE_CHECKING:
    from fastapi import FastAPI

    from openlance.media.clip import Clip

PATH = "/ui"
CACHE_SECONDS = (600, 24 * 3600)
SESSION_SECONDS = 6 * 3600
QUEUE_SECONDS = 0.03
"""Between two looks of the page's own queue for something to do. The library's millisecond kept the event loop awake for 6 % of a core,
beside the threads that compute (LOG.md)."""
THUMBNAIL = 96
PLACEHOLDERS = {
    "Ask": "Ask something — about the source, or about what you drop here",
    IMAGE: "Describe a picture",
    VIDEO: "Describe a clip",
    EDIT: "Say what should change",
}
NANO_EXAMPLES = (
    (IMAGE, "a red circle to the left of a blue star on a white background"),
    (IMAGE, "three yellow triangles on a black background"),
    (IMAGE, 'the word "HELLO" in green at the top'),
    (VIDEO, "a green square moving to the right on a white background"),
)
NANO_NEXT = ((EDIT, "make the background navy"), ("Ask", "how many objects are there?"))
EXAMPLES = (
    (IMAGE, "a corgi astronaut on the moon, studio light"),
    (IMAGE, "a street in the rain at night, neon signs"),
    (VIDEO, "waves rolling onto a beach at dusk"),
    (VIDEO, "a paper boat drifting down a stream"),
)
NEXT = ((EDIT, "make it snowy"), ("Ask", "Describe what you see."))


def mount_page(app: "FastAPI", service: Service) -> "FastAPI":
    """The app with the page under PATH and a way there from the root."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio as gr
    from fastapi.responses import RedirectResponse, Response

    @app.get("/", include_in_schema=False)
    def root() -> RedirectResponse:
        return RedirectResponse(PATH)

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(_asset("icon.svg"), media_type="image/svg+xml")

    @app.get("/manifest.json", include_in_schema=False)
    def manifest() -> dict[str, str]:
        return {"name": "openlance", "start_url": PATH, "display": "standalone"}

    keys = Keys(service.settings.api_keys)
    page = build_page(service)
    # A message names its files by path. The library checks that they were uploaded only for pages that it launched itself:
    # without this line a mounted page opens any file of the machine (tests/serve/test_page.py).
    page.has_launched = True
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        page,
        path=PATH,
        auth=(lambda _, password: keys.owner(password) is not None) if keys else None,
        auth_message="Any name; the password is an API key of this server." if keys else None,
        show_error=True,
        max_file_size=service.settings.uploads.bytes,
        footer_links=[],
        theme=gr.themes.Base(
            primary_hue=gr.themes.colors.teal, neutral_hue=gr.themes.colors.slate, font=("system-ui", "sans-serif"),
            font_mono=("ui-monospace", "monospace"), radius_size=gr.themes.sizes.radius_lg,
        ),
        css=_asset("page.css"),
        head=f"<script>{_asset('page.js')}</script>",
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
    )  # fmt: skip
    page._queue.sleep_when_free = QUEUE_SECONDS
    return mounted


def _asset(name: str) -> str:
    return resources.files("openlance.apps").joinpath("assets", name).read_text(encoding="utf-8")


def build_page(service: Service) -> Any:
    """The components and what connects them."""
    import gradio as gr

    model = service.model_id
    with gr.Blocks(title="openlance", analytics_enabled=False, fill_width=True, delete_cache=CACHE_SECONDS) as page:
        state = gr.State(None, time_to_live=SESSION_SECONDS, delete_callback=lambda talk: talk.close() if talk else None)
        gr.HTML(f'<div id="title"><h1>openlance</h1><span class="model">{model}</span></div>', elem_id="head", padding=False)
        with gr.Row(elem_id="body"):
            with gr.Column(scale=7, min_width=320, elem_id="talk"):
                parts = _talk(gr, model)
            with gr.Column(scale=3, min_width=280, elem_id="side"):
                parts |= _side(gr, service)
        _connect(gr, service, page, state, parts)
    return page


def _talk(gr: Any, model: str) -> dict[str, Any]:
    """Conversation, source, mode and composer."""
    chat = gr.Chatbot(
        show_label=False, elem_id="chat", height="100%", buttons=["copy"], layout="bubble", feedback_options=None, allow_tags=False,
        placeholder="### What shall it be?\nPick what to do, type, or drop pictures and clips. Or start with one of these.",
        examples=[
            {"text": f"{kind}: {text}", "display_text": f"{kind}: {text}"}
            for kind, text in (EXAMPLES if model.startswith("lance") else NANO_EXAMPLES)
        ],
    )  # fmt: skip
    with gr.Row(elem_id="source", visible=False) as strip:
        about = gr.HTML(elem_id="about", padding=False)
        animate = gr.Checkbox(label="Start the clip from it", visible=False, container=False, min_width=140, scale=0)
        clear = gr.Button("Let go", size="sm", min_width=80, scale=0, elem_id="clear")
    mode = gr.Radio(MODES, value=IMAGE, show_label=False, container=False, elem_id="mode", label="What to do")
    with gr.Row(elem_id="composer"):
        box = gr.MultimodalTextbox(
            file_types=["image", "video"], file_count="multiple", show_label=False, placeholder=PLACEHOLDERS[IMAGE], lines=1, max_lines=6,
            autofocus=True, elem_id="box", label="Your words", max_plain_text_length=32_000,
        )  # fmt: skip
        stop = gr.Button("Stop", variant="stop", visible=False, elem_id="stop", min_width=80, scale=0)
    return {
        "chat": chat, "strip": strip, "about": about, "animate": animate, "clear": clear, "mode": mode, "box": box, "stop": stop,
    }  # fmt: skip


def _side(gr: Any, service: Service) -> dict[str, Any]:
    """Gallery, comparison and settings."""
    defaults = service.worker.lance.config.sampling
    media = service.worker.lance.config.media
    slider = gr.ImageSlider(
        label="Before and after", visible=False, interactive=False, elem_id="slider", buttons=["fullscreen"], format="png"
    )  # fmt: skip
    gallery = gr.Gallery(
        label="Made in this session", columns=3, object_fit="contain", height="auto", buttons=["download", "fullscreen"], elem_id="gallery",
        interactive=False, visible=False,
    )  # fmt: skip
    use = gr.Button("Use as source", size="sm", visible=False, elem_id="use")
    with gr.Accordion("Settings", open=False, elem_id="settings"):
        with gr.Row():
            seed = gr.Number(label="Seed", precision=0, value=None, placeholder="drawn", elem_id="seed", min_width=120)
            new_seed = gr.Checkbox(label="New seed each time", value=True, elem_id="new-seed", min_width=120)
        with gr.Row():
            width = gr.Number(label="Width", precision=0, placeholder=str(media.image_size[1]), min_width=80, elem_id="width")
            height = gr.Number(label="Height", precision=0, placeholder=str(media.image_size[0]), min_width=80, elem_id="height")
            frames = gr.Number(label="Frames", precision=0, placeholder=str(media.num_frames), min_width=80, elem_id="frames")
        steps = gr.Slider(1, 100, step=1, value=defaults.num_inference_steps, label="Steps", elem_id="steps")
        guidance = gr.Slider(1, 15, step=0.5, value=defaults.guidance_scale, label="Guidance: how closely the words are followed")
        shift = gr.Slider(0.5, 10, step=0.1, value=defaults.timestep_shift, label="Shift: more for layout, less for detail")
        tokens = gr.Slider(1, min(2048, service.worker.lance.config.transformer.max_position_embeddings // 2), step=1,
                           value=defaults.max_new_tokens, label="Longest answer, tokens")  # fmt: skip
        temperature = gr.Slider(0, 2, step=0.05, value=0, label="Temperature of answers")
    gr.HTML('<p id="keys">Enter sends · Esc stops · Alt+1…4 picks what to do</p>', padding=False)
    settings = [seed, new_seed, width, height, frames, steps, guidance, shift, tokens, temperature]
    return {"slider": slider, "gallery": gallery, "use": use, "settings": settings}


PRIVATE = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
"""Every event of the page: not part of the API, no overlay, as many at once as there are visitors."""


def _connect(gr: Any, service: Service, page: Any, state: Any, parts: dict[str, Any]) -> None:
    chat, box, stop, mode, animate = (parts[name] for name in ("chat", "box", "stop", "mode", "animate"))
    gallery, use, slider, settings = (parts[name] for name in ("gallery", "use", "slider", "settings"))
    source = [parts["strip"], parts["about"], animate]
    shown = [state, chat, box, stop, gallery, use, slider, settings[0], *source]

    def view(talk: Conversation, chosen: str, busy: bool, done: bool = False) -> list[Any]:
        """Values of `shown`: while a turn runs only the conversation changes."""
        skip = gr.skip()
        rest = [skip] * (len(shown) - 4)
        if done:
            works = talk.gallery()
            compare = gr.update(value=talk.pair, visible=True) if talk.pair else gr.update(visible=False)
            rest = [
                gr.update(value=works, visible=bool(works), selected_index=None), gr.update(visible=bool(works)), compare,
                skip if talk.seed is None else talk.seed, *source_view(gr, talk, chosen),
            ]  # fmt: skip
        field = gr.update(interactive=not busy, value=None) if busy else gr.update(interactive=True)
        return [talk, talk.messages, field, gr.update(visible=busy), *rest]

    async def turn(talk: Conversation | None, message: Any, chosen: str, start: bool, *values: Any) -> AsyncIterator[list[Any]]:
        talk = talk or Conversation()
        if not message or not (message.get("text", "").strip() or message.get("files")):
            yield view(talk, chosen, busy=False)
            return
        follow = NEXT if service.model_id.startswith("lance") else NANO_NEXT
        wish = Wish(chosen, message.get("text") or "", tuple(message.get("files") or ()), start, Settings(*values))
        steps = run_turn(service, talk, wish)
        try:
            async for _ in steps:
                yield view(talk, chosen, busy=True)
            talk.suggest([(f"{kind}: {text}", text) for kind, text in follow])
            yield view(talk, chosen, busy=False, done=True)
        finally:
            await steps.aclose()

    def end_turn(talk: Conversation | None) -> None:
        if talk:
            talk.stop()

    def pick_example(event: gr.SelectData) -> tuple[str, dict[str, Any]]:
        value = event.value
        chosen, _, text = (value["text"] if isinstance(value, dict) else str(value)).partition(": ")
        return chosen, {"text": text, "files": []}

    def begin_again(talk: Conversation | None, chosen: str) -> list[Any]:
        if talk:
            talk.close()
        return view(Conversation(), chosen, busy=False, done=True)

    run = box.submit(turn, [state, box, mode, animate, *settings], shown, **PRIVATE)
    stop.click(end_turn, [state], None, **PRIVATE)
    chat.clear(begin_again, [state, mode], shown, cancels=[run], **PRIVATE)
    chat.example_select(pick_example, None, [mode, box], **PRIVATE)
    chat.option_select(pick_example, None, [mode, box], **PRIVATE)
    _connect_source(gr, state, parts, source)


def _connect_source(gr: Any, state: Any, parts: dict[str, Any], source: list[Any]) -> None:
    """What the next turn is about: picked from the gallery, let go, or no longer fitting the chosen mode."""
    mode, box = parts["mode"], parts["box"]

    def note_choice(talk: Conversation | None, event: gr.SelectData) -> None:
        if talk:
            talk.selected = event.index

    def use_selected(talk: Conversation | None, chosen: str) -> list[Any]:
        if talk:
            talk.choose(0 if talk.selected is None else talk.selected)
        return source_view(gr, talk, chosen)

    def let_go(talk: Conversation | None, chosen: str) -> list[Any]:
        if talk:
            talk.source = None
        return source_view(gr, talk, chosen)

    def change_mode(talk: Conversation | None, chosen: str) -> list[Any]:
        return [gr.update(placeholder=PLACEHOLDERS[chosen]), *source_view(gr, talk, chosen)]

    parts["gallery"].select(note_choice, [state], None, **PRIVATE)
    parts["use"].click(use_selected, [state, mode], source, **PRIVATE)
    parts["clear"].click(let_go, [state, mode], source, **PRIVATE)
    mode.change(change_mode, [state, mode], [box, *source], **PRIVATE)


def source_view(gr: Any, talk: Conversation | None, chosen: str) -> list[Any]:
    """Values of the strip that shows what the next turn is about: its visibility, its text, and whether a clip may start from it."""
    work = talk.source if talk else None
    if work is None:
        return [gr.update(visible=False), "", gr.update(visible=False, value=False)]
    kind = "picture" if work.clip.is_image else "clip"
    startable = chosen == VIDEO and work.clip.is_image
    text = f'<img src="{thumbnail(work.clip)}" alt=""><span>Source: {kind}, {work.clip.width}×{work.clip.height}</span>'
    return [gr.update(visible=True), text, gr.update(visible=startable)]


def thumbnail(clip: "Clip") -> str:
    """The first frame, small, as a data URL."""
    from openlance.media.clip import Clip
    from openlance.media.encode import encode

    image = clip.image()
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    return data_url(encode(Clip.from_image(image), "webp"), "image/webp")
