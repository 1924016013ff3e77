"""Pictures and clips that a request brings: data URLs, uploads and, where allowed, addresses, into clips within the limits."""

import asyncio
import base64
import binascii
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from openlance.apps.serve.remote_media import RemoteMedia
from openlance.apps.serve.settings import ServeSettings
from openlance.errors import MediaError

if TYPE_CHECKING:
    from openlance.media.clip import Clip

DECODERS = 4
"""Media that are decoded at the same time: bounds the memory that uploads can take."""
EXPECTED = {"image": "a picture", "video": "a video", "any": "a picture or a video"}


class MediaDoor:
    """The one way in for media. `kind`: `image`, `video` or `any`."""

    def __init__(self, settings: ServeSettings, remote: RemoteMedia | None = None) -> None:
        self.settings = settings
        self.remote = remote or RemoteMedia(settings.uploads.bytes)
        self._turn = asyncio.Semaphore(DECODERS)

    async def from_url(self, url: str, kind: str = "any") -> "Clip":
        """A clip from a data URL or an https address. Raises MediaError."""
        return await self.from_bytes(await self.read_url(url), kind)

    async def read_url(self, url: str) -> bytes:
        """The bytes behind a data URL or an https address. Raises MediaError."""
        if url[:5].lower() == "data:":
            return data_of(url)
        if not self.settings.allow_remote_media:
            raise MediaError(
                "media behind an address are not fetched by this server: send a data URL (data:image/png;base64,...), "
                "or have the operator start it with --allow-remote-media"
            )
        return await self.remote.fetch(url)

    async def from_bytes(self, data: bytes, kind: str = "any") -> "Clip":
        """A clip from the bytes of a file. Raises MediaError."""
        async with self._turn:
            return await asyncio.to_thread(self.decode, data, kind)

    def decode(self, data: bytes, kind: str = "any") -> "Clip":
        """As `from_bytes`, in this thread. Whatever a decoder raises on hostile bytes is a MediaError."""
        from openlance.media.read import read_image, read_media, read_video

        reader = {"image": read_image, "video": read_video, "any": read_media}[kind]
        try:
            return reader(data, limits=self.settings.uploads)
        except (MediaError, MemoryError):
            raise
        except Exception as error:
            raise MediaError(f"this is not {EXPECTED[kind]} that can be read ({type(error).__name__}): export it again") from error


def data_of(url: str) -> bytes:
    """The bytes of a data URL. Raises MediaError."""
    head, comma, body = url.partition(",")
    if not comma:
        raise MediaError("the data URL has no comma: it must look like data:image/png;base64,AAAA")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(body)
    try:
        return base64.b64decode(body.encode("ascii"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MediaError("the data URL is not valid base64: encode the file again") from error


def data_url(data: bytes, kind: str) -> str:
    """The data URL of a file of media type `kind`."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
