// SPDX-License-Identifier: MIT OR Apache-2.0
//! The jobs of a machine, and a server that lists them.

use std::cell::RefCell;
use std::rc::Rc;

use gio::prelude::*;
use serde_json::{Value, json};
use spice_qmp::{Job, List, Machine, QmpPort};

use super::main_loop::MainLoop;
use super::script::{self, Request, Server};

/// A job as `query-jobs` lists it.
pub fn listed(id: &str, status: &str, current: u64) -> Value {
    json!({
        "id": id, "type": "backup", "status": status,
        "current-progress": current, "total-progress": 100,
    })
}

pub fn status(server: &Server, id: &str, status: &str) {
    let data = json!({ "id": id, "status": status });
    server.event_with("JOB_STATUS_CHANGE", &data);
}

pub fn completed(server: &Server, id: &str, error: Option<&str>) {
    let mut data = json!({ "device": id, "len": 8, "offset": 8, "speed": 0, "type": "backup" });
    if let Some(error) = error {
        data["error"] = error.into();
    }
    server.event_with("BLOCK_JOB_COMPLETED", &data);
}

/// A machine and the list of its jobs, which are these; QEMU lists them in reverse
/// order.
pub fn jobs(main: &MainLoop, jobs: &[Value]) -> (Machine, List, QmpPort, Server) {
    let (port, server) = script::ready(main);
    let machine = Machine::new(&port);
    let list = machine.jobs();
    main.drain();
    assert!(server.commands().is_empty(), "nothing was requested");
    assert_eq!(list.n_items(), 0);
    assert!(list.loading());
    answer(main, &server, jobs);
    assert!(!list.loading());
    (machine, list, port, server)
}

/// The requests received, except the port's own, which are answered.
pub fn requests(server: &Server) -> Vec<Request> {
    let (own, others) = server
        .requests()
        .into_iter()
        .partition(|it| it.command == "query-status");
    let own: Vec<Request> = own;
    for request in own {
        server.reply(&request, script::running());
    }
    others
}

/// The only request received.
#[track_caller]
pub fn request(server: &Server, command: &str) -> Request {
    let mut requests = requests(server);
    assert_eq!(
        requests.len(),
        1,
        "{command} and nothing else: {requests:?}"
    );
    assert_eq!(requests[0].command, command);
    requests.remove(0)
}

/// Waits until the list asks, and answers.
pub fn answer(main: &MainLoop, server: &Server, jobs: &[Value]) {
    let mut requests = Vec::new();
    main.until("a question", || {
        requests.extend(self::requests(server));
        !requests.is_empty()
    });
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(requests[0].command, "query-jobs");
    let newest_first: Vec<_> = jobs.iter().rev().collect();
    server.reply(&requests[0], json!(newest_first));
    main.drain();
}

pub fn all(list: &List) -> Vec<Job> {
    list.iter::<Job>().map(Result::unwrap).collect()
}

/// The ids and statuses of all jobs.
pub fn summary(list: &List) -> String {
    let each = all(list);
    let each: Vec<_> = each
        .iter()
        .map(|it| format!("{} {}", it.id(), it.status()))
        .collect();
    each.join(", ")
}

/// The values of a job's properties, in order.
pub fn notes(job: &Job) -> Rc<RefCell<Vec<String>>> {
    let notes = Rc::<RefCell<Vec<String>>>::default();
    let own = notes.clone();
    job.connect_notify_local(None, move |job, property| {
        let value = match property.name() {
            "status" => job.status(),
            "error" => job.error().unwrap_or_default(),
            "progress" => job.progress().to_string(),
            _ => return,
        };
        own.borrow_mut()
            .push(format!("{} {value}", property.name()));
    });
    notes
}
