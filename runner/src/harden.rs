//! What the harness and all its children give up before the first of them runs: kinds of sockets that the pod's network
//! doesn't bound, so that no fence sees them. A VSOCK reaches the hypervisor from any network namespace, and older
//! container runtimes allow it. A filter passes to children and can't be taken off.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// The filter isn't in place.
#[derive(Debug, thiserror::Error)]
pub enum HardenError {
    /// It can't be made for this machine.
    #[error("failed to make the filter of system calls")]
    Make(#[from] seccompiler::BackendError),
    /// The kernel refuses it.
    #[error("failed to filter system calls; the container's runtime must allow seccomp")]
    Apply(#[from] seccompiler::Error),
}

/// Filters this thread's system calls and those of what it starts, for good. Programs for another architecture, as
/// 32-bit ones, are killed: their calls have other numbers.
pub fn harden() -> Result<(), HardenError> {
    let others = FAMILIES.map(|family| {
        let family = family.unsigned_abs().into();
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, family)
    });
    let others = SeccompRule::new(others.into_iter().collect::<Result<_, _>>()?)?;
    // It makes sockets too, and no filter sees which.
    let refused = BTreeMap::from([(libc::SYS_socket, vec![others]), (libc::SYS_io_uring_setup, vec![])]);
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter: BpfProgram = SeccompFilter::new(refused, SeccompAction::Allow, refuse, architecture)?.try_into()?;
    Ok(seccompiler::apply_filter(&filter)?)
}

/// All of these stay within the pod's network or its files.
const FAMILIES: [i32; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::unix::net::UnixDatagram;

    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketType, socket};

    use super::*;

    #[test]
    fn sockets_that_no_fence_sees_are_refused() {
        // The filter is the thread's alone.
        let filtered = std::thread::spawn(|| {
            harden().unwrap();
            UdpSocket::bind("127.0.0.1:0").unwrap();
            UnixDatagram::pair().unwrap();
            let vsock = socket(AddressFamily::VSOCK, SocketType::STREAM, None);
            assert_eq!(vsock.err(), Some(Errno::PERM));
            let packet = socket(AddressFamily::PACKET, SocketType::DGRAM, None);
            assert_eq!(packet.err(), Some(Errno::PERM));
        });
        filtered.join().unwrap();
    }
}
