//! Against answers in the form that GitHub documents (docs.github.com/rest, version 2022-11-28), cut to what is read and
//! with names of our own: GitHub itself isn't asked.

use super::*;

fn bytes(text: &str) -> &[u8] {
    text.as_bytes()
}

/// "List pull requests associated with a commit".
#[test]
fn of_a_commits_pull_requests_the_merged_one_comes_first() {
    let body = r#"[
        {"url": "https://api.github.com/repos/octo-org/agents/pulls/9", "id": 1, "number": 9, "state": "open",
         "merged_at": null, "merge_commit_sha": "e5bd3914e2e596debea16f433f57875b5b90bcd6"},
        {"url": "https://api.github.com/repos/octo-org/agents/pulls/7", "id": 2, "number": 7, "state": "closed",
         "merged_at": "2026-01-26T19:01:12Z", "merge_commit_sha": "c3d0be41ecbe669545ee3e94d31ed9a4bc91ee3c"}]"#;
    let merge = Some("c3d0be41ecbe669545ee3e94d31ed9a4bc91ee3c".to_owned());
    assert_eq!(GitHub.read_pulls_of(bytes(body)).unwrap(), [(7, merge), (9, None)]);
    assert_eq!(
        GitHub.pulls_of("octo-org/agents", "c0ffee"),
        "repos/octo-org/agents/commits/c0ffee/pulls?per_page=50"
    );
}

/// "Get a pull request".
#[test]
fn a_pull_request_is_read() {
    let body = r#"{
        "id": 1, "number": 7, "state": "closed", "merged": true, "html_url": "https://github.com/octo-org/agents/pull/7",
        "user": {"login": "octocat", "id": 1, "type": "User"},
        "merged_at": "2026-01-26T19:01:12Z", "merge_commit_sha": "c3d0be41ecbe669545ee3e94d31ed9a4bc91ee3c",
        "merged_by": {"login": "merge-helper[bot]", "id": 3, "type": "Bot"},
        "head": {"label": "octocat:topic", "ref": "topic", "sha": "6dcb09b5b57875f334f61aebed695e2e4193db5e", "repo": null},
        "base": {"label": "octo-org:main", "ref": "main", "sha": "e5bd3914e2e596debea16f433f57875b5b90bcd6",
                 "repo": {"id": 1296269, "name": "agents", "full_name": "octo-org/agents"}}}"#;
    let pull = GitHub.read_pull(bytes(body)).unwrap();
    let expected = Pull {
        number: 7,
        url: "https://github.com/octo-org/agents/pull/7".to_owned(),
        merged_at: Some("2026-01-26T19:01:12Z".parse().unwrap()),
        merge_commit: Some("c3d0be41ecbe669545ee3e94d31ed9a4bc91ee3c".to_owned()),
        head: "6dcb09b5b57875f334f61aebed695e2e4193db5e".to_owned(),
        base: "main".to_owned(),
        base_repository: 1_296_269,
        author: User {
            login: "octocat".to_owned(),
            machine: false,
        },
        merger: Some(User {
            login: "merge-helper[bot]".to_owned(),
            machine: true,
        }),
        ..Pull::default()
    };
    assert_eq!(pull, expected);
    // The trial merge of one that is open is no merge.
    let open = body.replace(r#""merged_at": "2026-01-26T19:01:12Z""#, r#""merged_at": null"#);
    let open = GitHub.read_pull(bytes(&open)).unwrap();
    assert_eq!((open.merged_at, open.merge_commit), (None, None));
}

/// "List reviews for a pull request".
#[test]
fn reviews_that_say_yes_or_no_are_read_in_their_order() {
    let review = |user: &str, state: &str| {
        format!(
            r#"{{"id": 80, "user": {user}, "body": "…", "state": "{state}", "submitted_at": "2026-01-20T17:12:51Z",
                "commit_id": "6dcb09b5b57875f334f61aebed695e2e4193db5e", "author_association": "COLLABORATOR"}}"#
        )
    };
    let bob = r#"{"login": "bob", "id": 2, "type": "User"}"#;
    let all = ["COMMENTED", "CHANGES_REQUESTED", "APPROVED", "DISMISSED"].map(|state| review(bob, state));
    let body = format!("[{},{}]", all.join(","), review("null", "APPROVED"));
    let (count, said) = GitHub.read_reviews(bytes(&body)).unwrap();
    assert_eq!(count, 5);
    let judgements: Vec<Judgement> = said.iter().map(|said| said.judgement).collect();
    assert_eq!(
        judgements,
        [Judgement::Refused, Judgement::Approved, Judgement::Withdrawn]
    );
    assert!(
        said.iter().all(|said| said.may_write.is_none()),
        "GitHub's list doesn't tell who may write"
    );
}

/// "List commits on a pull request".
#[test]
fn authors_and_committers_are_the_accounts_that_github_names() {
    let body = r#"[
        {"sha": "6dcb09b5b57875f334f61aebed695e2e4193db5e", "commit": {"author": {"name": "Octo Cat", "email": "octocat@example.com"}},
         "author": {"login": "octocat", "id": 1, "type": "User"}, "committer": {"login": "web-flow", "id": 19, "type": "User"}},
        {"sha": "1111111111111111111111111111111111111111", "author": null, "committer": {}}]"#;
    let made = GitHub.read_commits(bytes(body)).unwrap();
    let by = |users: &[&str]| users.iter().map(|user| (*user).to_owned()).collect();
    let expected = [
        Made {
            commit: "6dcb09b5b57875f334f61aebed695e2e4193db5e".to_owned(),
            by: by(&["octocat", "web-flow"]),
        },
        Made {
            commit: "1111111111111111111111111111111111111111".to_owned(),
            by: by(&[]),
        },
    ];
    assert_eq!(made, expected);
}

/// "Get repository permissions for a user" and "Get team membership for a user".
#[test]
fn rights_and_memberships_are_read() {
    for (permission, expected) in [("admin", true), ("write", true), ("read", false), ("none", false)] {
        let body =
            format!(r#"{{"permission": "{permission}", "role_name": "{permission}", "user": {{"login": "bob"}}}}"#);
        assert_eq!(GitHub.read_permission(bytes(&body)).unwrap(), expected, "{permission}");
    }
    for (state, expected) in [("active", true), ("pending", false)] {
        let body = format!(
            r#"{{"url": "https://api.github.com/teams/1/memberships/bob", "role": "member", "state": "{state}"}}"#
        );
        assert_eq!(GitHub.read_membership(bytes(&body)).unwrap(), expected, "{state}");
    }
    assert_eq!(
        GitHub.membership("octo-org", "security", None, "bob"),
        "orgs/octo-org/teams/security/memberships/bob"
    );
}

#[test]
fn the_api_is_where_github_documents_it() {
    let api = |url: &str| GitHub.api(&url.parse().unwrap()).to_string();
    assert_eq!(api("https://github.com"), "https://api.github.com/");
    assert_eq!(api("https://github.example.com"), "https://github.example.com/api/v3");
}

#[test]
fn an_answer_that_isnt_as_documented_is_an_error() {
    for body in ["", "{}", "[]", r#"{"message": "Not Found"}"#, "<html>"] {
        assert!(GitHub.read_pull(bytes(body)).is_err(), "{body}");
        assert!(GitHub.read_repository(bytes(body)).is_err(), "{body}");
    }
}
