//! Both listeners over real TCP: whatever an agent begins with, it is refused, and soon.
#![cfg(test)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_sidecar::listen::denials::Denials;
use berth_sidecar::listen::{self, Entrance};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

async fn listener(entrance: Entrance) -> SocketAddr {
    let listener = listen::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(listen::serve(listener, entrance, Arc::new(Denials::default())));
    address
}

async fn exchange(entrance: Entrance, sent: &[u8]) -> Vec<u8> {
    let mut agent = TcpStream::connect(listener(entrance).await).await.unwrap();
    agent.write_all(sent).await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(5), agent.read_to_end(&mut answer))
        .await
        .expect("no answer")
        .unwrap();
    answer
}

#[tokio::test]
async fn a_proxy_request_is_denied_with_a_reason() {
    let answer = exchange(
        Entrance::Proxy,
        b"CONNECT api.example.com:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    .await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 403 Forbidden\r\n") && head.contains("Connection: close"),
        "{head}"
    );
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["error"], "denied");
    assert_eq!(body["host"], "api.example.com:443");
    assert!(body["reason"].as_str().unwrap().starts_with("no grant"));
}

#[tokio::test]
async fn a_request_with_a_body_still_gets_the_answer() {
    let request = [
        b"POST http://example.com/ HTTP/1.1\r\n\r\n".as_slice(),
        &vec![b'x'; 100_000],
    ]
    .concat();
    assert!(exchange(Entrance::Proxy, &request).await.starts_with(b"HTTP/1.1 403"));
}

#[tokio::test]
async fn hosts_are_escaped() {
    let answer = exchange(Entrance::Transparent, b"GET / HTTP/1.1\r\nHost: a\"b\x01\r\n\r\n").await;
    let body = answer.split(|byte| *byte == b'{').nth(1).unwrap();
    assert!(String::from_utf8_lossy(body).contains(r#""host":"a\"b\u0001""#));
}

#[tokio::test]
async fn tls_gets_an_alert() {
    for entrance in [Entrance::Transparent, Entrance::Proxy] {
        let answer = exchange(entrance, &[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await;
        assert_eq!(answer, [0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x31]);
    }
}

#[tokio::test]
async fn other_protocols_are_closed_without_a_word() {
    assert!(
        exchange(Entrance::Transparent, b"SSH-2.0-OpenSSH_9.2\r\n")
            .await
            .is_empty()
    );
    assert!(
        exchange(Entrance::Proxy, b"\x05\x01\x00")
            .await
            .starts_with(b"HTTP/1.1 400")
    );
}

#[tokio::test]
async fn an_endless_head_is_refused() {
    let head = [b"GET / HTTP/1.1\r\nX: ".as_slice(), &vec![b'x'; 20 << 10]].concat();
    assert!(exchange(Entrance::Proxy, &head).await.starts_with(b"HTTP/1.1 431"));
}

#[tokio::test]
async fn a_connection_that_says_nothing_ends() {
    let mut agent = TcpStream::connect(listener(Entrance::Proxy).await).await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(14), agent.read_to_end(&mut answer))
        .await
        .expect("held open")
        .unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 408"));
}
