"""LiteLLM with its key routes played, which alone need its database: that one's engine comes from no package registry.

Everything else is LiteLLM's own: it checks the request, picks the model, speaks the three languages of agent programs,
streams, counts tokens and prices them. What a key spent is what LiteLLM itself reckons, told to its callbacks.

Loaded by config.yaml as `custom_auth`. Shapes are those of litellm/proxy/management_endpoints/key_management_endpoints.py.
"""

import hashlib

from fastapi import Request
from fastapi.responses import JSONResponse
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy import proxy_server
from litellm.proxy._types import LitellmUserRoles, ProxyException, UserAPIKeyAuth

# LiteLLM loads this file once for each setting that names it.
state = proxy_server.app.state
is_first = not hasattr(state, "keys")
if is_first:
    state.keys, state.ended = {}, []
keys, ended = state.keys, state.ended


def refuse(status, message, kind, param=None):
    error = {"message": message, "type": kind, "param": param, "code": str(status)}
    return JSONResponse({"error": error}, status_code=status)


def is_admin(request):
    return request.headers.get("authorization") == f"Bearer {proxy_server.master_key}"


async def user_api_key_auth(request: Request, api_key: str) -> UserAPIKeyAuth:
    """Who asks, as LiteLLM's own check says it when it has a database."""
    if api_key == proxy_server.master_key:
        return UserAPIKeyAuth(api_key=api_key, user_role=LitellmUserRoles.PROXY_ADMIN)
    row = keys.get(api_key)
    if row is None:
        raise ProxyException("Authentication Error, Invalid proxy server token passed.", "token_not_found_in_db", "key", 401)
    if row.get("blocked"):
        raise ProxyException("Authentication Error, Key is blocked.", "auth_error", None, 401)
    return UserAPIKeyAuth(
        api_key=api_key, key_alias=row.get("key_alias"), models=row.get("models", []), metadata=row.get("metadata", {}),
        max_budget=row.get("max_budget"), spend=row["spend"], user_role=LitellmUserRoles.INTERNAL_USER,
    )


class Spend(CustomLogger):
    """Adds what LiteLLM reckons for an answer to its key."""

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        said = kwargs.get("standard_logging_object") or {}
        alias = (said.get("metadata") or {}).get("user_api_key_alias")
        for row in keys.values():
            if row.get("key_alias") == alias:
                row["spend"] += kwargs.get("response_cost") or 0.0
                row["answers"] += 1


spend = Spend()


def other_alias(asked, own=None):
    alias = asked.get("key_alias")
    return any(alias and key != own and row.get("key_alias") == alias for key, row in keys.items())


async def generate(request: Request):
    asked = await request.json()
    if other_alias(asked):
        return refuse(400, f"Key with alias '{asked['key_alias']}' already exists.", "bad_request_error", "key_alias")
    key = asked.pop("key")
    row = keys.setdefault(key, {**asked, "spend": 0.0, "answers": 0})
    return JSONResponse({**row, "key": key, "token_id": "hash", "key_name": f"sk-...{key[-4:]}"})


async def update(request: Request):
    asked = await request.json()
    key = asked.pop("key")
    if key not in keys:
        return refuse(404, "Key not found.", "not_found_error", "key")
    if other_alias(asked, key):
        return refuse(400, f"Key with alias '{asked['key_alias']}' already exists.", "bad_request_error", "key_alias")
    keys[key].update(asked)
    return JSONResponse({**keys[key], "key": key})


async def info(request: Request):
    for key, row in keys.items():
        if hashlib.sha256(key.encode()).hexdigest() == request.query_params.get("key"):
            return JSONResponse({"key": request.query_params["key"], "info": row})
    return refuse(404, "Key not found in database", "not_found_error", "key")


async def delete(request: Request):
    asked = await request.json()
    named, aliases = asked.get("keys") or [], asked.get("key_aliases") or []
    gone = [key for key, row in keys.items() if key in named or row.get("key_alias") in aliases]
    for key in gone:
        ended.append(keys.pop(key))
    if not gone:
        return refuse(404, "{'error': 'No keys found'}", "not_found_error")
    return JSONResponse({"deleted_keys": aliases or named})


async def aliases(request: Request):
    search = request.query_params.get("search", "").lower()
    page, size = (int(request.query_params.get(name, default)) for name, default in (("page", 1), ("size", 50)))
    found = sorted(row["key_alias"] for row in keys.values() if search in (row.get("key_alias") or "").lower())
    return JSONResponse({
        "aliases": found[(page - 1) * size : page * size], "total_count": len(found), "current_page": page,
        "total_pages": -(-len(found) // size), "size": size,
    })


async def seen(request: Request):
    """For tests: every key that was ever made, without its value, and what it spent."""
    return JSONResponse({"live": list(keys.values()), "ended": ended})


def admins_alone(route):
    async def checked(request: Request):
        if not is_admin(request):
            return refuse(401, "Authentication Error, Invalid proxy server token passed.", "token_not_found_in_db", "key")
        return await route(request)

    return checked


ROUTES = [
    ("POST", "/key/generate", generate),
    ("POST", "/key/update", update),
    ("POST", "/key/delete", delete),
    ("GET", "/key/aliases", aliases),
    ("GET", "/key/info", info),
    ("GET", "/stand-in/keys", seen),
]
for method, path, route in ROUTES if is_first else []:
    router = proxy_server.app.router
    router.add_route(path, admins_alone(route), methods=[method])
    router.routes.insert(0, router.routes.pop())  # before LiteLLM's own of the same path
