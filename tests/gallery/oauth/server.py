"""An OAuth 2.0 authorization server on loopback: oauthlib does the protocol, this file holds clients and tokens in memory.

Usage: server.py CERTIFICATE KEY CLIENT SECRET REFRESH_TOKEN; prints its port. `/token` gives tokens for client
credentials and refresh tokens, which rotate; `/revoke` takes them back (RFC 7009); anything else wants a live token.
"""

import base64
import json
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import unquote

from oauthlib.oauth2 import RequestValidator, ResourceEndpoint, RevocationEndpoint, TokenEndpoint
from oauthlib.oauth2.rfc6749.grant_types import ClientCredentialsGrant, RefreshTokenGrant
from oauthlib.oauth2.rfc6749.tokens import BearerToken

CERTIFICATE, KEY, CLIENT, SECRET, REFRESH = sys.argv[1:6]


class Memory(RequestValidator):
    def __init__(self):
        self.live, self.refresh = {}, {REFRESH: ["read", "write"]}

    def authenticate_client(self, request, *args, **kwargs):
        name, secret = request.client_id, request.client_secret
        header = request.headers.get("Authorization", "")
        if header.startswith("Basic "):
            pair = base64.b64decode(header[6:]).decode().split(":", 1)
            name, secret = (unquote(part) for part in pair)
        request.client = SimpleNamespace(client_id=name)
        return (name, secret) == (CLIENT, SECRET)

    def validate_grant_type(self, client_id, grant_type, client, request, *args, **kwargs):
        return grant_type in ("client_credentials", "refresh_token")

    def validate_scopes(self, client_id, scopes, client, request, *args, **kwargs):
        return set(scopes) <= {"read", "write"}

    def get_default_scopes(self, client_id, request, *args, **kwargs):
        return ["read"]

    def validate_refresh_token(self, refresh_token, client, request, *args, **kwargs):
        return refresh_token in self.refresh

    def get_original_scopes(self, refresh_token, request, *args, **kwargs):
        return self.refresh[refresh_token]

    def save_bearer_token(self, token, request, *args, **kwargs):
        self.live[token["access_token"]] = token["scope"].split()
        if "refresh_token" in token:
            self.refresh.pop(request.refresh_token, None)
            self.refresh[token["refresh_token"]] = ["read", "write"]

    def validate_bearer_token(self, token, scopes, request):
        return token in self.live

    def revoke_token(self, token, token_type_hint, request, *args, **kwargs):
        self.live.pop(token, None)


class Server(TokenEndpoint, ResourceEndpoint, RevocationEndpoint):
    def __init__(self, memory):
        bearer = BearerToken(memory, expires_in=3600)
        grants = {
            "client_credentials": ClientCredentialsGrant(memory),
            "refresh_token": RefreshTokenGrant(memory),
        }
        TokenEndpoint.__init__(self, "client_credentials", default_token_type=bearer, grant_types=grants)
        ResourceEndpoint.__init__(self, default_token="Bearer", token_types={"Bearer": bearer})
        RevocationEndpoint.__init__(self, memory)


SERVER = Server(Memory())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        url = f"https://{self.headers['Host']}{self.path}"
        headers = dict(self.headers.items())
        headers = {name.title(): value for name, value in headers.items()}
        if self.path == "/token":
            self.say(*SERVER.create_token_response(url, "POST", body, headers))
        elif self.path == "/revoke":
            self.say(*SERVER.create_revocation_response(url, "POST", body, headers))
        else:
            self.do_GET()

    def do_GET(self):
        headers = {name.title(): value for name, value in self.headers.items()}
        live, _ = SERVER.verify_request(f"https://{self.headers['Host']}{self.path}", "GET", None, headers, [])
        echo = json.dumps({"live": live, "sent": headers.get("Authorization", "")})
        self.say({"Content-Type": "application/json"}, echo, 200 if live else 401)

    def say(self, headers, body, status):
        body = (body or "").encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(CERTIFICATE, KEY)
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
