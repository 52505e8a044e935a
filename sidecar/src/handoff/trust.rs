//! IO: the certificates that the agent's programs have to trust, in `handoff`: the session's authority alone, and a
//! bundle of it with the image's own, which Java reads in a format of its own.

use std::io;
use std::path::Path;

use berth_protocol::environment::{BUNDLE_FILE, CA_FILE, JAVA_FILE};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::java;

/// Writes them. The directory may be shared with the agent, which can't write to it.
pub fn write(handoff: &Path, ca: &str) -> io::Result<()> {
    place(handoff, CA_FILE, ca.as_bytes())?;
    let mut bundle = match std::fs::read(PUBLIC) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        public => public?,
    };
    bundle.extend_from_slice(ca.as_bytes());
    place(handoff, BUNDLE_FILE, &bundle)?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&bundle).filter_map(Result::ok).collect();
    let store = java::store(certificates.iter().map(AsRef::as_ref));
    place(handoff, JAVA_FILE, &store)
}

/// Seen whole or not at all, and readable by the agent's user.
fn place(handoff: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut file = tempfile::NamedTempFile::new_in(handoff)?;
    io::Write::write_all(&mut file, bytes)?;
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    file.persist(handoff.join(name)).map_err(|error| error.error)?;
    Ok(())
}

/// Where Debian, Ubuntu and Alpine keep them.
const PUBLIC: &str = "/etc/ssl/certs/ca-certificates.crt";
