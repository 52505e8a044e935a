//! The fence in a real network namespace. Needs root; says so and passes otherwise.
#![cfg(test)]

use std::process::{Command, Output};

/// A network namespace with a way out: a veth to another one, where a server listens.
struct Net {
    inside: String,
    outside: String,
}

const ADDRESS: &str = "192.0.2.2";

impl Net {
    fn new(name: &str) -> Option<Self> {
        if !is_root() {
            eprintln!("skipped: a network namespace needs root");
            return None;
        }
        let id = format!("{name}-{}", std::process::id());
        let net = Self {
            inside: format!("berth-test-in-{id}"),
            outside: format!("berth-test-out-{id}"),
        };
        let (inside, outside) = (&net.inside, &net.outside);
        for line in [
            format!("netns add {inside}"),
            format!("netns add {outside}"),
            format!("-n {inside} link add v0 type veth peer name v1 netns {outside}"),
            format!("-n {inside} link set lo up"),
            format!("-n {inside} link set v0 up"),
            format!("-n {inside} addr add 192.0.2.1/24 dev v0"),
            format!("-n {inside} addr add 2001:db8::1/64 dev v0 nodad"),
            format!("-n {outside} link set lo up"),
            format!("-n {outside} link set v1 up"),
            format!("-n {outside} addr add {ADDRESS}/24 dev v1"),
            format!("-n {outside} addr add 2001:db8::2/64 dev v1 nodad"),
        ] {
            let done = Command::new("ip").args(line.split(' ')).output().unwrap();
            assert!(done.status.success(), "ip {line}: {}", said(&done));
        }
        Some(net)
    }

    fn fence(&self, mode: &str) {
        let program = env!("CARGO_BIN_EXE_berth-sidecar");
        let done = Command::new("ip")
            .args(["netns", "exec", &self.inside, program, "fence", "--mode", mode])
            .output();
        let done = done.unwrap();
        assert!(done.status.success(), "{}", said(&done));
    }

    /// Runs a Python program as a user, in the fenced namespace, with servers inside and outside.
    fn python(&self, uid: u32, program: &str) -> String {
        let user = format!("--reuid={uid}");
        let script = format!("{PRELUDE}\n{program}");
        let done = Command::new("ip")
            .args([
                "netns",
                "exec",
                &self.inside,
                "setpriv",
                &user,
                "--clear-groups",
                "--no-new-privs",
            ])
            .args([PYTHON, "-I", "-c", &script])
            .output()
            .unwrap();
        said(&done).trim().to_owned()
    }

    fn servers(&self) -> Servers {
        let server = |namespace: &str, uid: &str, script: &str| {
            let user = format!("--reuid={uid}");
            let script = format!("{SERVER}\n{script}");
            let mut child = Command::new("ip")
                .args([
                    "netns",
                    "exec",
                    namespace,
                    "setpriv",
                    &user,
                    "--clear-groups",
                    PYTHON,
                    "-I",
                    "-c",
                    &script,
                ])
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            let stdout = child.stdout.as_mut().unwrap();
            std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
            assert_eq!(line, "up\n");
            child
        };
        Servers(vec![
            server(
                &self.inside,
                "1337",
                "serve([('127.0.0.1', 14322), ('127.0.0.1', 14323)])",
            ),
            server(
                &self.inside,
                "1000",
                "serve([('127.0.0.1', 8000), ('::1', 8000), ('192.0.2.1', 8000)])",
            ),
            server(
                &self.outside,
                "0",
                "serve([('192.0.2.2', 443), ('2001:db8::2', 443)], udp=('192.0.2.2', 53))",
            ),
        ])
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in [&self.inside, &self.outside] {
            drop(Command::new("ip").args(["netns", "del", name]).output());
        }
    }
}

struct Servers(Vec<std::process::Child>);

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn is_root() -> bool {
    let done = Command::new("id").arg("-u").output().unwrap();
    done.stdout == b"0\n"
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The system's: another user must be able to run it.
const PYTHON: &str = "/usr/bin/python3";

/// Each server answers with its port.
const SERVER: &str = r"
import socket, threading
def serve(addresses, udp=None):
    def tcp(listener, port):
        while True:
            peer, _ = listener.accept()
            peer.sendall(str(port).encode())
            peer.close()
    def datagrams(sock):
        while True:
            data, peer = sock.recvfrom(512)
            sock.sendto(data, peer)
    for host, port in addresses:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ':' in host else socket.AF_INET)
        threading.Thread(target=tcp, args=(listener, port)).start()
    if udp:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(udp)
        threading.Thread(target=datagrams, args=(sock,)).start()
    print('up', flush=True)
";

const PRELUDE: &str = r"
import socket
def tcp(host, port):
    try:
        with socket.create_connection((host, port), timeout=2) as peer:
            text = b''
            while piece := peer.recv(64):
                text += piece
            return text.decode()
    except OSError as error:
        return type(error).__name__
def udp(host, port):
    kind = socket.AF_INET6 if ':' in host else socket.AF_INET
    with socket.socket(kind, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        try:
            sock.connect((host, port))
            sock.send(b'echo')
            return sock.recv(64).decode()
        except OSError as error:
            return 'nothing'
";

/// What user 1000 reaches, whichever fence stands.
const AGENT: &str = r"
print(tcp('192.0.2.2', 443), tcp('192.0.2.2', 25))
print(tcp('127.0.0.1', 14322), tcp('127.0.0.1', 14323), tcp('127.0.0.1', 8000))
print(udp('192.0.2.2', 53))
";

#[test]
fn only_the_sidecar_leaves_through_the_nft_fence() {
    let Some(net) = Net::new("nft") else { return };
    let servers = net.servers();
    net.fence("nft");
    net.fence("nft"); // a restarted init container
    let agent = net.python(1000, AGENT);
    assert_eq!(agent, "14323 14323\n14322 14323 8000\nnothing");
    // Its own addresses stay its own; IPv6 leads nowhere.
    let more = "print(tcp('192.0.2.1', 8000), tcp('::1', 8000), tcp('2001:db8::2', 443), udp('2001:db8::2', 53))";
    assert_eq!(net.python(1000, more), "8000 8000 ConnectionRefusedError nothing");
    // Nobody but the sidecar's user is free: another user and root are fenced too.
    for uid in [1001, 0, 65534] {
        assert_eq!(
            net.python(uid, "print(tcp('192.0.2.2', 443), udp('192.0.2.2', 53))"),
            "14323 nothing",
            "{uid}"
        );
    }
    assert_eq!(
        net.python(
            1337,
            "print(tcp('192.0.2.2', 443), udp('192.0.2.2', 53), tcp('2001:db8::2', 443))"
        ),
        "443 echo 443"
    );
    // ICMP, by an unprivileged socket and by root's raw one.
    let ping = r"
import struct
def ping(kind):
    try:
        with socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP) as sock:
            sock.settimeout(1)
            sock.sendto(struct.pack('!BBHHH', 8, 0, 0xf7fd, 1, 1), ('192.0.2.2', 0))
            sock.recv(64)
            return 'pong'
    except OSError as error:
        return 'nothing'
def solicit():
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
            sock.sendto(b'\x87' + bytes(23), ('2001:db8::2', 0))
            return 'sent'
    except OSError as error:
        return 'nothing'
print(ping(socket.SOCK_RAW), solicit())";
    assert_eq!(net.python(0, ping), "nothing nothing");
    drop(servers);
}

#[test]
fn nobody_outside_reaches_the_agents_servers_through_the_nft_fence() {
    let Some(net) = Net::new("in") else { return };
    let servers = net.servers();
    net.fence("nft");
    let script = format!("{PRELUDE}\nprint(tcp('192.0.2.1', 8000))");
    let done = Command::new("ip")
        .args(["netns", "exec", &net.outside, PYTHON, "-I", "-c", &script])
        .output()
        .unwrap();
    assert_ne!(said(&done).trim(), "8000");
    drop(servers);
}

#[test]
fn the_last_bytes_of_a_sidecar_that_ends_still_arrive() {
    let Some(net) = Net::new("fin") else { return };
    net.fence("nft");
    let script = r"
import socket, time
listener = socket.create_server(('192.0.2.2', 9000))
listener.settimeout(10)
print('up', flush=True)
peer, _ = listener.accept()
time.sleep(1)  # the sender's socket has lost its owner by now, most of its bytes unsent
total = 0
peer.settimeout(5)
while piece := peer.recv(1 << 16):
    total += len(piece)
print(total, flush=True)";
    let mut receiver = Command::new("ip")
        .args(["netns", "exec", &net.outside, PYTHON, "-I", "-c", script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(receiver.stdout.take().unwrap()));
    assert_eq!(lines.next().unwrap().unwrap(), "up");
    let sender = "
sock = socket.create_connection(('192.0.2.2', 9000))
sock.setblocking(False)
total = 0
try:
    while True: total += sock.send(b'x' * 65536)
except BlockingIOError: print(total)";
    let sent = net.python(1337, sender);
    assert_eq!(lines.next().unwrap().unwrap(), sent);
    receiver.wait().unwrap();
}

#[test]
fn only_the_sidecar_leaves_through_the_iptables_fence() {
    let Some(net) = Net::new("ipt") else { return };
    let servers = net.servers();
    net.fence("iptables-legacy");
    net.fence("iptables-legacy");
    let agent = net.python(1000, AGENT);
    assert_eq!(agent, "14323 14323\n14322 14323 8000\nnothing");
    assert_eq!(
        net.python(1337, "print(tcp('192.0.2.2', 443), udp('192.0.2.2', 53))"),
        "443 echo"
    );
    drop(servers);
}

#[test]
fn a_fence_that_cannot_be_loaded_says_why() {
    if !is_root() {
        eprintln!("skipped: dropping privileges needs root");
        return;
    }
    let program = std::env::temp_dir().join(format!("berth-sidecar-{}", std::process::id()));
    // By a process of its own: a child that another test forks meanwhile would hold the file open, and it couldn't run.
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_berth-sidecar"))
        .arg(&program)
        .status();
    assert!(copied.is_ok_and(|status| status.success()));
    let done = Command::new("setpriv")
        .args(["--reuid=1000", "--clear-groups", "--inh-caps=-all"])
        .arg(&program)
        .args(["fence", "--mode", "nft"])
        .output()
        .unwrap();
    std::fs::remove_file(&program).unwrap();
    assert!(!done.status.success());
    assert!(said(&done).contains("`nft -f -` failed"), "{}", said(&done));
}
