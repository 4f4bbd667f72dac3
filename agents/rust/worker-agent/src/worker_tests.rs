#[path = "../../noa-agent/tests/harness/mod.rs"]
mod harness;

use std::fs;
use std::time::{Duration, Instant};

use harness::*;
use noa_agent::proto::execute_response::Event;
use serde_json::json;

use super::agent;

#[tokio::test]
async fn files_are_compressed_into_the_folder_of_the_run() {
    let mut host = serve(agent(2)).await;
    let folder = host.folder.path().to_owned();
    fs::write(folder.join("a"), "abc").unwrap();
    fs::write(folder.join("b"), "").unwrap();
    let files = json!([{"path": "a", "size": 3.0}, {"path": "none"}, {"path": "b"}]);
    let mut asked = request(
        "x",
        "compress_files",
        json!({"root": format!("file://{}/", folder.display()), "files": files, "level": 9}),
    );
    asked.output_prefix = format!("file://{}/out%20put/", folder.display());
    let mut stream = host.execute(asked).await;
    joined(&mut stream).await;
    for done in 1..=3 {
        let Event::Progress(progress) = next(&mut stream).await else { panic!() };
        assert_eq!((progress.done, progress.total, &*progress.unit), (Some(done), Some(3), "files"));
    }
    let output = output(ended(stream).await);
    assert_eq!(output["skipped"], json!([{"path": "none", "reason": "no such file or directory"}]));
    assert_eq!((&output["worker"], &output["pid"]), (&json!("rust"), &json!(std::process::id())));
    assert_eq!(output["bytes_in"], 3);
    let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let gzip = folder.join("out put").join(format!("{sha256}.gz"));
    let gzip_bytes = fs::metadata(&gzip).unwrap().len();
    let expected = json!({"path": "a", "size_bytes": 3, "sha256": sha256, "gzip_path": gzip, "gzip_bytes": gzip_bytes});
    assert_eq!(output["files"][0], expected);
    assert_eq!(output["files"][1]["path"], "b");
}

#[tokio::test]
async fn the_same_content_at_once_is_one_file() {
    let mut host = serve(agent(0)).await;
    let folder = host.folder.path().to_owned();
    fs::write(folder.join("a"), "x".repeat(1 << 20)).unwrap();
    let input = json!({"root": folder, "files": [{"path": "a"}], "output_dir": folder.join("out")});
    let mut streams = Vec::new();
    for id in ["a", "b", "c", "d"] {
        streams.push(host.execute(request(id, "compress_files", input.clone())).await);
    }
    let mut outputs = Vec::new();
    for stream in streams {
        outputs.push(output(ended(stream).await));
    }
    assert!(outputs.iter().all(|output| *output == outputs[0]));
    assert_eq!(fs::read_dir(folder.join("out")).unwrap().count(), 1);
}

#[tokio::test]
async fn what_does_not_fit_names_the_field() {
    let mut host = serve(agent(0)).await;
    for (id, input, field) in [
        ("a", json!({"files": [{"path": 1}], "output_dir": "/tmp"}), "files[0].path"),
        ("b", json!({"files": [], "output_dir": "/tmp", "level": 10}), "level"),
        ("c", json!({"files": [], "output_dir": "s3://bucket/x"}), "output_dir"),
        ("d", json!({"files": []}), "output_dir"),
        ("e", json!({"files": [{"path": "a", "size": -1}]}), "files[0].size"),
        ("f", json!({"output_dir": "/tmp"}), "files"),
        ("g", json!({"files": [{"path": ""}], "output_dir": "/tmp"}), "files[0].path"),
        ("h", json!({"files": [], "output_dir": "/tmp", "root": "file://elsewhere/x"}), "root"),
    ] {
        let failure = host.failure(request(id, "compress_files", input)).await;
        assert_eq!((failure.code.as_str(), failure.retryable), ("INVALID_INPUT", false));
        assert!(failure.message.contains(field), "{}", failure.message);
    }
}

#[tokio::test]
async fn a_cancelled_worker_ends_between_two_chunks() {
    let mut host = serve(agent(0)).await;
    let folder = host.folder.path().to_owned();
    // A hole of 8 GiB takes minutes to compress and no room.
    fs::File::create(folder.join("hole")).unwrap().set_len(8 << 30).unwrap();
    let input = json!({"root": folder, "files": [{"path": "hole"}], "output_dir": folder.join("out")});
    let stream = host.execute(request("a", "compress_files", input)).await;
    let began = Instant::now();
    let temporary = || fs::read_dir(folder.join("out")).map_or(0, Iterator::count);
    while temporary() == 0 {
        assert!(began.elapsed() < Duration::from_secs(20));
        tokio::task::yield_now().await;
    }
    host.cancel("a", Duration::from_secs(60)).await;
    assert_eq!(failure(ended(stream).await).code, "CANCELLED");
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(temporary(), 0);
}
