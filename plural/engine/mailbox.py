"""How results get from the engine's thread to whoever waits for them on an event loop."""

from __future__ import annotations

import asyncio

from plural.engine.request import Sink


class Mailbox:
    """Results for one caller, put in by the engine's thread, taken out on the caller's event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[object] = asyncio.Queue()

    def put(self, item: object) -> bool:
        """False when the caller's loop is closed, so that nobody is left to tell."""
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except RuntimeError:
            return False
        return True

    def tagged(self, tag: int) -> Sink:
        """Puts (tag, item) in, and errors as they are."""
        return lambda item: self.put(item if isinstance(item, BaseException) else (tag, item))

    async def get(self) -> object:
        """The next result. Raises it if it is an error."""
        item = await self._items.get()
        if isinstance(item, BaseException):
            raise item
        return item
