//! The demonstration, as a stranger starts it: whatever stands between its parts, it has to run to its report.

use super::process::{Program, windward};

#[test]
fn the_demonstration_runs_to_its_report() {
    let folder = tempfile::tempdir().unwrap();
    // Named as one does who stands in a folder: from there.
    let mut command = windward(["demo", "--duration", "3s", "--seed", "7", "--log", "access.jsonl"]);
    let (status, said) = Program::start("windward demo", command.current_dir(folder.path())).finish();
    let said = said.join("\n");
    assert!(status.success(), "{said}");
    assert!(said.contains("http://127.0.0.1:") && said.contains("simulated") && said.contains("saved"), "{said}");
    let lines = std::fs::read_to_string(folder.path().join("access.jsonl")).unwrap();
    let mut served = 0;
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["simulated"], true, "{line}");
        served += u32::from(line["http.response.status_code"] == 200 && !line["emissions"].is_null());
    }
    assert!(served > 0, "{lines}");
}
