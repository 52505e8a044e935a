//! The projected token: read, and read again whenever the kubelet has rotated it. The token is never logged.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

use crate::files::Changes;

/// Reads the token until the receivers are gone. The first reading may be empty: the stream then waits for the next.
pub async fn follow(path: PathBuf, token: watch::Sender<String>) {
    let mut changes = Changes::of(&path, POLL);
    loop {
        match tokio::fs::read_to_string(&path).await {
            Ok(text) => drop(token.send_if_modified(|held| replace(held, text.trim()))),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "the token can't be read"),
        }
        tokio::select! {
            () = token.closed() => return,
            () = changes.next() => {}
        }
    }
}

fn replace(held: &mut String, text: &str) -> bool {
    let fresh = !text.is_empty() && held != text;
    if fresh {
        text.clone_into(held);
    }
    fresh
}

/// The kubelet rotates at 80 % of an hour: a minute later is early enough.
const POLL: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[tokio::test]
    async fn a_symlink_swap_as_the_kubelet_does_it_is_seen() {
        let volume = tempfile::tempdir().unwrap();
        let at = |name: &str| volume.path().join(name);
        for (directory, token) in [("..1", "first\n"), ("..2", "second\n")] {
            std::fs::create_dir(at(directory)).unwrap();
            std::fs::write(at(directory).join("token"), token).unwrap();
        }
        symlink("..1", at("..data")).unwrap();
        symlink("..data/token", at("token")).unwrap();
        let (sender, mut token) = watch::channel(String::new());
        let following = tokio::spawn(follow(at("token"), sender));
        token.wait_for(|token| token == "first").await.unwrap();
        tokio::task::yield_now().await;
        symlink("..2", at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
        let seen = tokio::time::timeout(Duration::from_secs(5), token.wait_for(|token| token == "second"));
        seen.await.unwrap().unwrap();
        drop(token);
        following.await.unwrap();
    }
}
