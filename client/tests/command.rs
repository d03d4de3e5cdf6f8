//! The `headwater` command where there is no core: what is wrong is said, with a code and a hint.

use std::process::{Command, Output};

fn headwater(arguments: &[&str], token: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    command.args(arguments);
    for variable in ["HEADWATER_TOKEN", "HEADWATER_TOKEN_FILE", "HEADWATER_CORE"] {
        command.env_remove(variable);
    }
    if let Some(token) = token {
        command.env("HEADWATER_TOKEN", token);
    }
    command.output().expect("it runs")
}

#[test]
fn without_a_token_it_says_where_to_get_one() {
    for (arguments, token, code) in [
        (&["ls"][..], None, "HW-1012"),
        (&["ls"], Some("hw1-aaaa"), "HW-1003"),
        (&["ls", "--token-file", "/none"], None, "HW-4008"),
    ] {
        let said = headwater(arguments, token);
        let stderr = String::from_utf8_lossy(&said.stderr);
        assert_eq!(said.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains(&format!("error[{code}]")) && stderr.contains("hint: "), "{stderr}");
        assert!(said.stdout.is_empty(), "stdout is data");
    }
    assert_eq!(headwater(&["frobnicate"], None).status.code(), Some(2));
    assert!(String::from_utf8_lossy(&headwater(&["--help"], None).stdout).contains("bench"));
}
