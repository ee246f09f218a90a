"""What reaches a transport of what uvicorn writes, and when reading is paused."""

import asyncio

import pytest

from runtime.server.bounded_http import GatheredWrites


class RecordingTransport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[bytes | str] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.calls.append(bytes(data))

    def close(self) -> None:
        self.calls.append("close")


def test_what_is_written_in_one_turn_leaves_in_one_piece() -> None:
    async def calls() -> list[list[bytes | str]]:
        transport = RecordingTransport()
        gathered = GatheredWrites(transport, asyncio.get_running_loop())
        seen = []
        for turn in ((b"head", b"body"), (b"more",), (b"x" * 20_000, b"y")):
            for piece in turn:
                gathered.write(piece)
            seen.append(list(transport.calls))
            await asyncio.sleep(0)
        gathered.write(b"last")
        gathered.close()
        await asyncio.sleep(0)
        return [*seen, transport.calls]

    first, second, third, end = asyncio.run(calls())
    assert first == []
    assert second == [b"headbody"]
    assert third == [b"headbody", b"more", b"x" * 20_000]  # much is passed on at once
    assert end == [*third, b"y", b"last", "close"]


@pytest.mark.parametrize(
    ("turns", "calls"),
    [
        (["pause resume", ""], []),  # a body that is here already
        (["pause", "resume"], ["pause", "resume"]),  # one that is read later
        (["pause resume pause", "", "resume"], ["pause", "resume"]),
        (["pause", "pause", "resume", "resume"], ["pause", "resume"]),
        (["pause close", ""], ["close"]),
    ],
)
def test_reading_is_paused_at_the_end_of_a_turn(turns: list[str], calls: list[str]) -> None:
    class Reading(RecordingTransport):
        def pause_reading(self) -> None:
            self.calls.append("pause")

        def resume_reading(self) -> None:
            self.calls.append("resume")

        def is_closing(self) -> bool:
            return "close" in self.calls

    async def seen() -> list[bytes | str]:
        transport = Reading()
        gathered = GatheredWrites(transport, asyncio.get_running_loop())
        does = {
            "pause": gathered.pause_reading,
            "resume": gathered.resume_reading,
            "close": gathered.close,
        }
        for turn in turns:
            for name in turn.split():
                does[name]()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return transport.calls

    assert asyncio.run(seen()) == calls
