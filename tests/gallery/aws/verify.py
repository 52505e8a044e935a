"""Holds requests, as the origin got them, against botocore's own signers. Standard input: {key, requests}."""
import json
import sys
from urllib.parse import parse_qsl, unquote, urlsplit

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

told = json.load(sys.stdin)
key = Credentials(told["key"]["id"], told["key"]["secret"], told["key"]["token"])
for request in told["requests"]:
    headers = {name.lower(): value for name, value in request["headers"]}
    parts = urlsplit(request["target"])
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if "authorization" in headers:
        fields = dict(part.strip().split("=", 1) for part in headers["authorization"].split(" ", 1)[1].split(","))
        credential, names, signature = fields["Credential"], fields["SignedHeaders"], fields["Signature"]
        date, target, token = headers["x-amz-date"], request["target"], headers.get("x-amz-security-token")
    else:
        credential, names, signature = (query["X-Amz-" + name] for name in ("Credential", "SignedHeaders", "Signature"))
        date, token = query["X-Amz-Date"], query.get("X-Amz-Security-Token")
        target = request["target"].split("&X-Amz-Signature=")[0]
    access, day, region, service, _ = credential.split("/")
    assert (access, token) == (key.access_key, key.token), "another key"
    signed = {name: headers[name] for name in names.split(";")}
    body = bytes(request["body"])
    mine = AWSRequest(request["method"], "https://" + headers["host"] + target, signed, body)
    mine.context["timestamp"] = date
    if "authorization" not in headers:
        signer = S3SigV4QueryAuth(key, service, region)
    else:
        signer = (S3SigV4Auth if service == "s3" else SigV4Auth)(key, service, region)
    expected = signer.signature(signer.string_to_sign(mine, signer.canonical_request(mine)), mine)
    assert expected == signature, f"{request['method']} {target}: {signer.canonical_request(mine)}"
print(len(told["requests"]), "verified")
