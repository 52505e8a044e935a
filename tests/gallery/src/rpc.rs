//! A gRPC server with one method, `fake.Say/Back` of `toolchains/say.proto`.

use anyhow::Result;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};

use crate::agent::Body;

/// One unary call: the message comes back behind the value that the server got.
pub async fn back(request: Request<Incoming>) -> Result<Response<Body>> {
    let value = request.headers().get(AUTHORIZATION).cloned();
    let value = value
        .and_then(|value| value.to_str().map(str::to_owned).ok())
        .unwrap_or_default();
    request.into_body().collect().await?;
    let mut message = BytesMut::new();
    message.put_u8(0x0a); // field 1, bytes
    message.put_u8(u8::try_from(value.len())?);
    message.put_slice(value.as_bytes());
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len())?);
    frame.put(message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(Bytes::from(frame))), Ok(Frame::trailers(trailers))];
    let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
    Ok(Response::builder()
        .header("content-type", "application/grpc")
        .body(body)?)
}
