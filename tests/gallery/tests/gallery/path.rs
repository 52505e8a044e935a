//! What a path is, for the route and for the upstream: the same bytes.

use anyhow::Result;
use berth_gallery::origin::echo;
use berth_gallery::policy::{SECRET, STUB};
use berth_gallery::scene::Scene;
use serde_json::json;

/// THREAT: 24
/// THREAT: CVE-2026-100971
#[tokio::test]
async fn no_spelling_leaves_the_paths_of_a_route() -> Result<()> {
    let scene = Scene::new(echo(), &json!({ "paths": ["/repos/mine/**"] })).await?;
    let outside = [
        "/repos/mine/../theirs/x",
        "/repos/mine/%2e%2e/theirs/x",
        "/repos/mine/%2E./theirs/x",
        "/repos/mine/.%2e/theirs",
        "/repos/mine/%252e%252e/theirs",
        "/repos/mine/..;/theirs",
        "/repos/mine/..;x=y/theirs",
        "/repos/mine/;/../../theirs",
        "/repos/mine/.;/theirs",
        "/repos/mine/%2e%2e%3b/theirs",
        "/repos/mine/..%2ftheirs",
        "/repos/mine/%2e%2e%2ftheirs",
        "/repos/mine/..%5ctheirs",
        "/repos/mine/..\\theirs",
        "/repos/mine/%c0%ae%c0%ae/theirs",
        "/repos/mine/%00/x",
        "/repos/mine/x%0d%0aX-Injected:1",
        "/repos/mine/%zz",
        "/repos/mine/%",
        "//repos/mine/x",
        "/repos//mine/x",
        "/repos%2fmine%2fx",
        "/REPOS/mine/x",
        "/repos/mine",
        "/repos/mine%2f../theirs",
        "/./repos/mine/../../x",
        "/../repos/mine/x",
        "*",
    ];
    for path in outside {
        let answer = scene.get(path).await?;
        assert!([400, 403].contains(&answer.status), "{path}: {}", answer.head);
    }
    assert!(scene.origin.requests().is_empty());
    Ok(())
}

/// THREAT: 24
/// THREAT: opensandbox-115
#[tokio::test]
async fn what_was_judged_is_what_is_sent() -> Result<()> {
    let scene = Scene::new(echo(), &json!({ "paths": ["/repos/mine/**", "/*"] })).await?;
    for (path, sent) in [
        ("/repos/mine/x", "/repos/mine/x"),
        ("/repos/mine/a/../b", "/repos/mine/b"),
        ("/repos/theirs/../mine/b", "/repos/mine/b"),
        ("/repos/mine/%7Euser/%41", "/repos/mine/~user/A"),
        ("/repos/mine/a%2fb", "/repos/mine/a%2Fb"),
        ("/repos/mine/a;b=c", "/repos/mine/a;b=c"),
        ("/repos/mine/%c3%a4", "/repos/mine/%C3%A4"),
        ("/repos/mine//x", "/repos/mine//x"),
        ("/@scope%2fpackage", "/@scope%2Fpackage"), // npm
        ("/repos/mine/x?a=%2e%2e/..&b", "/repos/mine/x?a=%2e%2e/..&b"),
        ("/repos/mine/x?", "/repos/mine/x?"),
    ] {
        let before = scene.origin.requests().len();
        let answer = scene.get(path).await?;
        let requests = scene.origin.requests();
        assert_eq!(
            (answer.status, requests.len()),
            (200, before + 1),
            "{path}: {}",
            answer.text()
        );
        assert_eq!(requests[before].target(), sent, "{path}");
    }
    Ok(())
}

/// THREAT: 24
#[tokio::test]
async fn a_fragment_or_a_space_does_not_hide_the_rest() -> Result<()> {
    let scene = Scene::new(echo(), &json!({ "paths": ["/ok"] })).await?;
    for path in [
        "/secret#/ok",
        "/ok#/../secret",
        "/ok HTTP/1.1 /secret",
        "/ok\t/secret",
        "/ok/ä",
    ] {
        let answer = scene.get(path).await?;
        let seen = scene.origin.requests().pop().map(|seen| seen.target().to_owned());
        assert!(
            answer.status == 400 || seen.as_deref().is_none_or(|seen| seen == "/ok"),
            "{path}: {seen:?}"
        );
    }
    assert!(!scene.origin.text().contains("/secret "));
    Ok(())
}

/// THREAT: 26
#[tokio::test]
async fn a_read_only_repository_is_pushed_to_in_neither_phase() -> Result<()> {
    let git = json!({
        "methods": null,
        "paths": null,
        "inject": { "basic": {} },
        "git": { "repos": ["me/mine"] },
    });
    let scene = Scene::new(echo(), &git).await?;
    for (line, expected) in [
        ("GET /me/mine.git/info/refs?service=git-upload-pack", 200),
        ("GET /me/mine/info/refs?service=git-upload-pack", 200),
        ("POST /me/mine.git/git-upload-pack", 200),
        ("GET /me/mine.git/info/refs?service=git-receive-pack", 403),
        ("POST /me/mine.git/git-receive-pack", 403),
        (
            "GET /me/mine.git/info/refs?service=git-upload-pack&service=git-receive-pack",
            403,
        ),
        ("GET /me/mine.git/info/refs?service=git%2dreceive-pack", 403),
        ("GET /me/mine.git/info/refs", 403),
        ("GET /me/mine.git/HEAD", 403),
        ("POST /me/mine.git/info/refs?service=git-upload-pack", 403),
        ("GET /me/other.git/info/refs?service=git-upload-pack", 403),
        ("GET /me/mine.git/../other.git/info/refs?service=git-upload-pack", 403),
        ("GET /ME/mine.git/info/refs?service=git-upload-pack", 403),
        ("GET /api/v3/user", 403),
    ] {
        let answer = scene.send(&scene.bare(line, "Content-Length: 0\r\n")).await?;
        assert_eq!(answer.status, expected, "{line}: {}", answer.text());
    }
    assert_eq!(scene.origin.requests().len(), 3);
    assert!(!scene.origin.text().contains(STUB) && !scene.origin.text().contains(SECRET));
    Ok(())
}
