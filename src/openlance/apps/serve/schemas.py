"""What clients send, as typed models: OpenAI's fields, the sampling parameters of this project beside them, nothing unknown."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Text = Annotated[str, Field(max_length=32_000)]
Size = Annotated[str, Field(pattern=r"^(auto|[1-9][0-9]{0,4}x[1-9][0-9]{0,4})$")]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
MAX_N = 10


class Body(BaseModel):
    """Unknown fields are an error: a parameter that does nothing would mislead."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, str_strip_whitespace=False)


class ImageParameters(BaseModel):
    """How pictures and clips are denoised; names are those of diffusers. None takes the model's default."""

    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    visual_guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    guidance_interval: tuple[float, float] | None = None
    guidance_renorm: Literal["global", "channel", "none"] | None = None
    guidance_renorm_min: Annotated[float, Field(ge=0, le=1)] | None = None
    timestep_shift: Annotated[float, Field(ge=0.01, le=100)] | None = None
    solver: str | None = None
    seed: Seed | None = None
    """None draws one; the answer names it."""
    negative_prompt: str | None = None
    """Only empty: guidance here is against the absence of the prompt."""

    @field_validator("negative_prompt")
    @classmethod
    def _empty(cls, value: str | None) -> str | None:
        if value:
            raise ValueError("this model has no negative prompt, guidance is against the absence of the prompt: leave it out")
        return value

    def parameters(self) -> dict[str, Any]:
        """Those that were given, without the seed."""
        names = ImageParameters.model_fields.keys() - {"seed", "negative_prompt"}
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


class ImageCreate(Body, ImageParameters):
    """POST /v1/images/generations."""

    prompt: Text
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    size: Size | None = None
    """WIDTHxHEIGHT in pixels, or auto."""
    output_format: Literal["png", "jpeg", "webp"] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    """`url` gives a data URL."""
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None
    """Previews of a streamed picture."""
    quality: str | None = None
    style: str | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: str | None = None
    output_compression: int | None = None
    user: str | None = None


class ImageEdit(ImageCreate):
    """The fields of POST /v1/images/edits besides the pictures."""

    input_fidelity: str | None = None


class UrlPart(Body):
    url: str
    detail: str | None = None


class Part(Body):
    """One part of a message: text, a picture or a clip."""

    type: Literal["text", "image_url", "video_url"]
    text: Text | None = None
    image_url: UrlPart | str | None = None
    video_url: UrlPart | str | None = None


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part] | None = None
    images: Annotated[list[Part], Field(max_length=16)] | None = None
    """Pictures that an assistant turn returned."""
    name: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatCreate(Body, ImageParameters):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=256)]
    model: str | None = None
    modalities: Annotated[list[Literal["text", "image", "video"]], Field(min_length=1)] | None = None
    """With `image` or `video`, the answer is a picture or a clip: a new one, or an edit of the last one in the conversation."""
    size: Size | None = None
    num_frames: Annotated[int, Field(ge=1, le=10_000)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """None is 0: greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_N)] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logprobs: Literal[False] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None


class VideoCreate(Body, ImageParameters):
    """POST /v1/videos, besides the reference."""

    prompt: Text
    model: str | None = None
    seconds: Annotated[float, Field(gt=0, le=3600)] | None = None
    size: Size | None = None
    num_frames: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Instead of seconds."""


class VideoRemix(Body, ImageParameters):
    """POST /v1/videos/{id}/remix."""

    prompt: Text
    model: str | None = None


def size_of(size: str | None) -> Mapping[str, int]:
    """`width` and `height` of WIDTHxHEIGHT; empty for auto."""
    if size is None or size == "auto":
        return {}
    width, height = size.split("x")
    return {"width": int(width), "height": int(height)}


def form_schema(model: type[BaseModel], files: Mapping[str, bool], required: tuple[str, ...] = ()) -> dict[str, Any]:
    """OpenAPI of a multipart body: the fields of `model`, and `files` by name (True: several)."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    one = {"type": "string", "format": "binary"}
    for name, several in files.items():
        schema["properties"][name] = {"type": "array", "items": one} if several else one
    schema["required"] = [*schema.get("required", ()), *required]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}
