"""Files <-> frames: the step between the world and the model.

    bytes, paths, pictures --read--> Clip --resize--> frames of a size the model takes
                                     Clip --write---> png, jpeg, webp, gif, mp4

A `Clip` holds uint8 frames (F, H, W, 3) at a constant rate; an image is a clip of one frame. What a source is, is told by its content, and
how much it may cost is bounded by `MediaLimits` before anything is decoded. Every failure is a `MediaError` that says what to do.
`clip` the type, `limits` the bounds, `source` opening and sniffing, `picture` Pillow, `video` PyAV, `sample` which frames of a video,
`read` all of these as three functions; `resize` buckets, crops and grids; `encode` bytes, `write` files, `sheet` many clips on one picture.
Pillow, PyAV and numpy are imported only when a function needs them.
"""

from openlance.media.clip import IMAGE_FPS, Clip
from openlance.media.encode import encode
from openlance.media.limits import MediaLimits
from openlance.media.read import read_image, read_media, read_video
from openlance.media.resize import (
    PRESETS,
    Preset,
    buckets,
    crop_and_resize,
    crop_to_multiple,
    nearest_bucket,
    nearest_size,
    resize_to_bucket,
    resize_to_multiple,
)
from openlance.media.sample import sample_frame_indices
from openlance.media.sheet import contact_sheet
from openlance.media.write import write_image, write_media, write_video

__all__ = [
    "IMAGE_FPS",
    "PRESETS",
    "Clip",
    "MediaLimits",
    "Preset",
    "buckets",
    "contact_sheet",
    "crop_and_resize",
    "crop_to_multiple",
    "encode",
    "nearest_bucket",
    "nearest_size",
    "read_image",
    "read_media",
    "read_video",
    "resize_to_bucket",
    "resize_to_multiple",
    "sample_frame_indices",
    "write_image",
    "write_media",
    "write_video",
]
