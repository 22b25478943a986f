//! A device that knows nothing of a broker but its URL is let in by the code that it shows: the real
//! broker, the real asking side.

#![cfg(all(feature = "broker", feature = "node"))]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use warren_broker::ServeConfig;
use warren_broker::admin::{Client, Error, JoinApproval, JoinKeyStatus};
use warren_node::ask::{AskError, ask};
use warren_proto::ErrorCode;

struct Broker {
    url: String,
    admin: Client,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
    _folder: tempfile::TempDir,
}

impl Broker {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = ServeConfig::new(folder.path());
        config.listen = Some("127.0.0.1:0".parse().unwrap());
        config.stun = vec!["127.0.0.1:0".parse().unwrap()];
        let running = warren_broker::start(&config).await.unwrap();
        let (stop, stopped) = oneshot::channel();
        Self {
            url: running.url(),
            admin: Client::at(config.admin_socket()),
            stop,
            task: tokio::spawn(running.run(async {
                let _ = stopped.await;
            })),
            _folder: folder,
        }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_device_is_let_in_by_the_code_that_it_shows() {
    let broker = Broker::start().await;
    let request = ask(&broker.url, Some("Kitchen Pi")).await.unwrap();
    assert_eq!(request.link(), format!("{}/join/request?code={}", broker.url, request.code));
    let approval = JoinApproval { tags: ["camera".to_owned()].into() };
    // As somebody types it.
    let typed = request.code.to_lowercase().replace('-', " ");
    let seen = broker.admin.let_in("home", &typed, &approval).await.unwrap();
    assert_eq!((seen.name.as_str(), &seen.code), ("Kitchen Pi", &request.code));
    let link = tokio::time::timeout(Duration::from_secs(20), request.decided()).await;
    let link = link.expect("it is told in time").unwrap();
    assert!(link.pin.is_some(), "from now on it knows the broker");
    let keys = broker.admin.join_keys("home").await.unwrap();
    let key = keys.iter().find(|key| key.tags.contains("camera")).unwrap();
    assert!(!key.reusable && key.status == JoinKeyStatus::Usable && key.expires.is_some());
    // Nobody is let in twice by one code, nor by one that no device shows.
    for code in [request.code.as_str(), "0000-0000", "nonsense"] {
        let refused = broker.admin.let_in("home", code, &approval).await;
        let Err(Error::Problem(problem)) = refused else { panic!("{refused:?}") };
        assert_eq!(problem.code, ErrorCode::NotFound);
    }
    assert_eq!(broker.admin.join_keys("home").await.unwrap().len(), keys.len());
    broker.stop().await;
}

#[tokio::test]
async fn who_asks_elsewhere_gets_another_code() {
    let (one, other) = (Broker::start().await, Broker::start().await);
    let request = ask(&one.url, None).await.unwrap();
    let refused = other.admin.let_in("home", &request.code, &JoinApproval::default()).await;
    assert!(refused.is_err());
    assert!(matches!(ask("http://192.0.2.1", None).await, Err(AskError::Control(_))));
    one.stop().await;
    other.stop().await;
}
