"""Protocols that go on: gRPC, WebSocket and events, by clients that know no more than their environment."""

import asyncio
import os
import sys
import time

import aiohttp
import grpc
import httpx

what, place, token = sys.argv[1], sys.argv[2], "Bearer " + os.environ["TOKEN"]


def call():
    with grpc.secure_channel(place, grpc.ssl_channel_credentials()) as channel:
        back = channel.unary_unary("/fake.Say/Back")
        return back(b"\x0a\x04word", metadata=[("authorization", token)], timeout=20).decode()


async def chat():
    # The scheme is https: aiohttp looks for the proxy of `wss` in a variable that nobody sets.
    async with aiohttp.ClientSession(trust_env=True) as session:
        async with session.ws_connect(place, headers={"Authorization": token}) as socket:
            await socket.send_str("hello")
            return await socket.receive_str() + await socket.receive_str()


def events():
    came, last = [], ""
    with httpx.stream("GET", place, headers={"Authorization": token}, timeout=20) as answer:
        for line in answer.iter_lines():
            if line.startswith("data:"):
                came.append(time.monotonic())
                last = line.strip()
    # They came as they were sent, not together.
    return f"{len(came)} events, {'apart' if came[-1] - came[0] > 2 else 'together'}, {last}"


print(what, {"call": call, "chat": lambda: asyncio.run(chat()), "events": events}[what]())
