//! A simulated fleet beside the proxy under test.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::oneshot;
use windward::clock::SystemClock;
use windward::config::fleet::FleetPlan;
use windward::mock;

use super::patiently;

/// A simulated fleet, in a thread of its own until this is dropped.
pub(crate) struct Fleet {
    pub(crate) handle: Arc<mock::Handle>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Fleet {
    /// Starts what a fleet's file says.
    pub(crate) fn start(fleet: &str) -> Self {
        let (started, addresses) = std::sync::mpsc::channel();
        let fleet = fleet.to_owned();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let plan = FleetPlan::parse(&fleet).unwrap();
                started.send(Arc::new(mock::start(&plan, Arc::new(SystemClock), 1).await.unwrap())).unwrap();
                let _ = stopped.await;
            });
        });
        Self { handle: addresses.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }

    /// Where a region listens.
    pub(crate) fn url(&self, region: &str) -> String {
        format!("http://{}", self.handle.address(region).unwrap())
    }

    /// What the regions were asked, and whether they answered.
    pub(crate) fn rows(&self, count: usize) -> Vec<(String, Option<u16>)> {
        let rows = patiently("the regions' rows", || Some(self.handle.ledger()).filter(|rows| rows.len() >= count));
        rows.into_iter().map(|row| (row.path, row.status)).collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
