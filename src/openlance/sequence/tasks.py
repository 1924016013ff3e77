"""The task table: what each task is made of. The only file that names tasks.

A sequence is SYSTEM, then for each medium its blocks, then the prompt, then the target; a task says which blocks a medium
gives, the role it plays, and what kind of target is produced.
"""

from dataclasses import dataclass

from openlance.errors import RequestError
from openlance.sequence.segment import Kind, Role


@dataclass(frozen=True)
class Task:
    """One line of the table."""

    name: str
    output: str
    """`text`, `image` or `video`."""
    template: str
    """First half of the SYSTEM text's key; the second is `output`."""
    media: tuple[int, int] = (0, 0)
    """Fewest and most media a request brings."""
    blocks: tuple[Kind, ...] = ()
    """Blocks each medium contributes to the user turn, in order."""
    role: Role = Role.SOURCE
    clean_frames: int = 0
    """Leading latent frames of the target taken from the medium instead of noise."""
    medium: str = "any"
    """`image`, `video` or `any`."""
    keeps_size: bool = False
    """Whether the target takes the size (and length) of the last medium."""
    about: str = ""


SEEN = (Kind.VISION,)
SEEN_AND_KEPT = (Kind.VISION, Kind.LATENT)
MANY = 8

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("t2i", "image", "t2i", about="text to image"),
        Task("t2v", "video", "t2v", about="text to video"),
        Task("i2v", "video", "i2v", media=(1, 1), clean_frames=1, medium="image", about="first frame and text to video"),
        Task("image_edit", "image", "edit", (1, MANY), SEEN_AND_KEPT, medium="image", keeps_size=True, about="change an image"),
        Task("video_edit", "video", "edit", (1, MANY), SEEN_AND_KEPT, medium="video", keeps_size=True, about="change a video"),
        Task("subject_image", "image", "subject", (1, MANY), SEEN_AND_KEPT, Role.REFERENCE, about="new image with given subjects"),
        Task("subject_video", "video", "subject", (1, MANY), SEEN_AND_KEPT, Role.REFERENCE, about="new video with given subjects"),
        Task("understand", "text", "understand", (1, MANY), SEEN, about="question about images and videos"),
        Task("text", "text", "text", about="text only"),
    )
}

RELEASED_NAMES = {
    "image_idip": "subject_image",
    "video_idip": "subject_video",
    "x2t_image": "understand",
    "x2t_video": "understand",
    "x2t": "understand",
}
"""Names of the released batch format for lines of our table."""


def find_task(name: str) -> Task:
    """The task of a name, ours or the released one. Raises RequestError listing the names."""
    task = TASKS.get(RELEASED_NAMES.get(name, name))
    if task is None:
        raise RequestError(f"no task '{name}': choose one of {', '.join(TASKS)}")
    return task


def infer_task(output: str, media: tuple[str, ...], first_frame: bool = False, subject: bool = False) -> Task:
    """The task that makes `output` from media of these kinds (`image`, `video`).

    `first_frame`: the one image is where a video starts; `subject`: the media show what must appear, not what is changed.
    """
    for task in TASKS.values():
        fits = task.output == output and task.media[0] <= len(media) <= task.media[1]
        kinds = task.medium == "any" or all(kind == task.medium for kind in media)
        starts = bool(task.clean_frames) == first_frame
        keeps = (task.role is Role.REFERENCE) == subject
        if fits and kinds and starts and keeps:
            return task
    raise RequestError(
        f"no task makes {output} from media {list(media)} (first_frame={first_frame}, subject={subject}): "
        "an edit takes images for an image or videos for a video"
    )
