"""Pictures and clips behind an https address, fetched only where the operator allows it and only from the public internet."""

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from openlance.errors import MediaError

if TYPE_CHECKING:
    import httpx

Resolve = Callable[[str], Awaitable[list[str]]]
TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("64:ff9b:1::/48"))
REDIRECTS = 3


class RemoteMedia:
    """Fetches one address at a time. The name is resolved once, every address of it checked, and the checked one connected to."""

    def __init__(
        self, max_bytes: int, seconds: float = 15.0, resolve: "Resolve | None" = None, transport: "httpx.AsyncBaseTransport | None" = None
    ) -> None:
        self.max_bytes = max_bytes
        self.seconds = seconds
        self.resolve = resolve or resolve_host
        self.transport = transport

    async def fetch(self, url: str) -> bytes:
        """The bytes behind `url`. Raises MediaError for anything but a public https address that answers in time and within the size."""
        try:
            async with asyncio.timeout(self.seconds):
                return await self._follow(url)
        except TimeoutError as error:
            raise MediaError(f"{_short(url)} did not arrive within {self.seconds:g} s: send the medium as a data URL") from error

    async def _follow(self, url: str) -> bytes:
        import httpx

        host = https_host(url)
        async with httpx.AsyncClient(transport=self.transport, trust_env=False, follow_redirects=False, timeout=self.seconds) as client:
            for _ in range(REDIRECTS + 1):
                if https_host(url) != host:
                    raise MediaError(f"{host} redirects to another host, which is not followed: give the final address")
                try:
                    answer = await self._get(client, url, host)
                except httpx.HTTPError as error:
                    raise MediaError(f"{_short(url)} cannot be fetched ({type(error).__name__}): send the medium as a data URL") from error
                if isinstance(answer, bytes):
                    return answer
                url = urljoin(url, answer)
        raise MediaError(f"{host} redirects more than {REDIRECTS} times: give the final address")

    async def _get(self, client: "httpx.AsyncClient", url: str, host: str) -> bytes | str:
        """The body, or the address that the answer redirects to."""
        import httpx

        address = await self._public_address(host)
        target = httpx.URL(url).copy_with(host=address)
        async with client.stream("GET", target, headers={"Host": host}, extensions={"sni_hostname": host}) as response:
            if response.is_redirect:
                return str(response.headers.get("location", ""))
            if response.status_code != 200:
                raise MediaError(f"{_short(url)} answers with status {response.status_code}: check the address")
            data = bytearray()
            async for piece in response.aiter_bytes():
                data += piece
                if len(data) > self.max_bytes:
                    raise MediaError(f"{_short(url)} has more than {self.max_bytes} bytes, the limit: give a smaller file")
            return bytes(data)

    async def _public_address(self, host: str) -> str:
        addresses = await self.resolve(host)
        private = [address for address in addresses if not is_public(address)]
        if private or not addresses:
            raise MediaError(f"{host} is not a host of the public internet: send the medium as a data URL")
        return addresses[0]


def https_host(url: str) -> str:
    """The host of an https address. Raises MediaError for other schemes, other ports, and user names in it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise MediaError(f"{_short(url)} is no valid address: give https://HOST/PATH or a data URL") from error
    if parts.scheme != "https" or not parts.hostname or port not in (None, 443) or parts.username is not None:
        raise MediaError(f"{_short(url)} is not allowed: only https addresses on port 443 without a user name, or data URLs")
    return parts.hostname


async def resolve_host(host: str) -> list[str]:
    """All addresses of `host`. Raises MediaError when it has none."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise MediaError(f"the host '{host[:100]}' cannot be found: check the address") from error
    return [str(sockaddr[0]) for *_, sockaddr in found]


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, also behind the ways of writing one kind of address in another."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            return is_public(str(ip.ipv4_mapped))
        if ip.sixtofour or ip.teredo or any(ip in network for network in TRANSLATED):
            return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def _short(url: str) -> str:
    return f"'{url[:80]}{'...' if len(url) > 80 else ''}'"
