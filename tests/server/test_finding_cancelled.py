"""A client that leaves in the very moment in which its prompt was found in the store."""

import asyncio
from types import SimpleNamespace

import pytest

from dca_runtime.server.service import Service


def test_leaving_while_the_store_answers_is_heard():
    async def leave() -> None:
        found: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        service = SimpleNamespace(
            _stored=SimpleNamespace(find=None),
            _disk=None,
            _loop=SimpleNamespace(run_in_executor=lambda *_: found),
            metrics=SimpleNamespace(looked_up=lambda tokens: None),
        )
        wanted = SimpleNamespace(cache_prompt=True, prompt=[1] * 1000)
        finding = asyncio.ensure_future(Service._find(service, wanted))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        found.set_result(512)
        finding.cancel()
        await finding

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(leave())
