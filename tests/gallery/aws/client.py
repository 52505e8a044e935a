"""What an agent does with AWS: boto3 finds its keys by itself, and calls S3, DynamoDB and Lambda."""
import os
import sys
import urllib.request

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

endpoint, mode = sys.argv[1], sys.argv[2]
session = boto3.Session(region_name="eu-west-1")
found = session.get_credentials()
assert found.method == ("env" if mode == "env" else "container-role"), found.method
assert found.access_key == os.environ["STUB"], "another key"
quick = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})


def client(name, **more):
    return session.client(name, endpoint_url=endpoint, config=quick, **more)


s3 = client("s3")
s3.put_object(Bucket="bucket", Key="a key/$(x)~é+1", Body=b"payload")
s3.put_object(Bucket="bucket", Key="file", Body=open(sys.argv[0], "rb"), ContentType="text/x-python", Metadata={"k": "a  b"})
s3.get_object(Bucket="bucket", Key="a//b/.c")
s3.list_objects_v2(Bucket="bucket", Prefix="a b+c/ü", Delimiter="/", MaxKeys=3)
s3.delete_objects(Bucket="bucket", Delete={"Objects": [{"Key": "one"}]})
client("dynamodb").list_tables()
client("lambda").invoke(FunctionName="arn:aws:lambda:eu-west-1:123456789012:function:fake", Payload=b"{}")

s3v4 = session.client("s3", endpoint_url=endpoint, config=Config(signature_version="s3v4", s3={"addressing_style": "path"}))
url = s3v4.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "a b"}, ExpiresIn=600)
assert urllib.request.urlopen(url).status == 200
url = s3v4.generate_presigned_url("put_object", Params={"Bucket": "bucket", "Key": "up"}, ExpiresIn=600)
assert urllib.request.urlopen(urllib.request.Request(url, data=b"payload", method="PUT", headers={"Content-Type": ""})).status == 200

try:
    s3.get_object(Bucket="bucket", Key="a/../b")
except ClientError as error:
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 403, error
else:
    raise SystemExit("a key with dots was another key")

for region, service in [("us-east-1", "dynamodb"), ("eu-west-1", "sts")]:
    other = boto3.Session(region_name=region).client(service, endpoint_url=endpoint, config=quick)
    try:
        other.list_tables() if service == "dynamodb" else other.get_caller_identity()
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 403, error
    except ResponseParserError as error:  # the refusal is JSON, STS speaks XML
        assert "AWS service" in str(error), error
    else:
        raise SystemExit(f"{region} {service} was served")
print("done")
