//! Docker: there, usable, with what sandboxes are made of.

use super::{Finding, Places, Verdict};
use crate::sandbox::docker::{About, Docker, DockerError};
use crate::sandbox::spec::body::Runtime;

/// The image of sandboxes that name no other.
const SANDBOX_IMAGE: &str = "agent-creds-sandbox";

/// What was found, and what the engine says of itself.
pub(super) async fn look(places: &Places) -> (Vec<Finding>, Option<About>) {
    let asked = async {
        let docker = Docker::connect(places.docker_host.as_deref()).await?;
        let about = docker.about().await?;
        Ok((docker.image_exists(SANDBOX_IMAGE).await?, about))
    };
    match asked.await {
        Ok((has_image, about)) => (findings(&about, has_image), Some(about)),
        Err(error) => (vec![of_error(&error)], None),
    }
}

fn of_error(error: &DockerError) -> Finding {
    match error {
        DockerError::NotRunning { source, .. } => {
            Finding::of_error("Docker", Verdict::Problem, &format!("{error} ({source})"))
        }
        // What is after the colon is Docker's, and no advice.
        DockerError::Refused { .. } | DockerError::Connection { .. } => Finding::problem(
            "Docker",
            error.to_string(),
            "see its log (`journalctl -u docker`), and whether `docker info` works",
        ),
        _ => Finding::of_error("Docker", Verdict::Problem, &error.to_string()),
    }
}

fn findings(about: &About, has_image: bool) -> Vec<Finding> {
    let docker = match about.rootless {
        false => Finding::ok("Docker", format!("Engine {}", about.version)),
        true => Finding::warning(
            "Docker",
            format!(
                "Engine {} runs without root: the network rules would be those of its own namespace",
                about.version
            ),
            "use the system's Docker: unset DOCKER_HOST",
        ),
    };
    let runtime = |check, runtime: Runtime, verdict| match about.runtimes.contains(runtime.as_str()) {
        true => Finding::ok(check, format!("Docker has the runtime {}", runtime.as_str())),
        false => {
            let error = DockerError::RuntimeMissing { runtime: runtime.as_str().to_owned() };
            Finding::of_error(check, verdict, &error.to_string())
        }
    };
    let image = match has_image {
        true => Finding::ok("image", format!("{SANDBOX_IMAGE} is there")),
        false => Finding::warning(
            "image",
            format!("there is no image {SANDBOX_IMAGE}: sandboxes that name no other cannot start"),
            "run `make images`, or name another under [sandbox]",
        ),
    };
    // Without gVisor sandboxes can still use runc, if their files say so.
    vec![
        docker,
        runtime("runc", Runtime::Runc, Verdict::Problem),
        runtime("gVisor", Runtime::Runsc, Verdict::Warning),
        image,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_how_to_get_it() {
        let about = |runtimes: &[&str]| About {
            version: "20.10.24".into(),
            runtimes: runtimes.iter().map(|&name| name.to_owned()).collect(),
            time: None,
            rootless: false,
        };
        assert!(findings(&about(&["runc", "runsc"]), true).iter().all(|finding| finding.verdict == Verdict::Ok));
        let found = findings(&About { rootless: true, ..about(&["runc"]) }, false);
        let verdicts: Vec<_> = found.iter().map(|finding| finding.verdict).collect();
        assert_eq!(verdicts, [Verdict::Warning, Verdict::Ok, Verdict::Warning, Verdict::Warning]);
        assert!(found[2].mend.as_ref().unwrap().contains("gvisor.sh"), "{found:?}");
        assert_eq!(findings(&about(&[]), true)[1].verdict, Verdict::Problem);
    }

    #[test]
    fn what_docker_says_is_no_advice() {
        let found =
            of_error(&DockerError::Refused { action: "ask Docker about itself", message: "server: gone".into() });
        assert_eq!(found.what, "Docker could not ask Docker about itself: server: gone");
        assert!(found.mend.unwrap().contains("journalctl"));
    }
}
