"""Asks by three of Python's clients: its own, requests and httpx."""

import os
import sys
import urllib.request

import httpx
import requests

place, headers = sys.argv[1], {"Authorization": "Bearer " + os.environ["TOKEN"]}
assert urllib.request.urlopen(urllib.request.Request(place + "urllib", headers=headers)).status == 200
# Not as an iterator: requests before 2.29 sends that past a proxy's tunnel.
assert requests.post(place + "requests", data=b"a" * 100_000, headers=headers).status_code == 200
assert httpx.get(place + "httpx", headers=headers).status_code == 200
