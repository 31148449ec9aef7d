//! Workloads with a server: QEMU itself, and responders that answer at once.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Instant;

use glib::prelude::*;
use spice_client_glib_sys as spice;
use spice_qmp::transport::spice::Channel;
use spice_qmp::{PortChannel, QmpPort};

use crate::clients::{self, Client, Python, Sample, Spice, until};
use crate::measure::{Figures, Unit};
use crate::report::{Report, Row};
use crate::server::{self, CLIENT_CORE, SERVER_CORE, Server};

/// How much to do.
pub struct Plan {
    pub rounds: usize,
    pub quick: bool,
    /// Whether a workload of this name is wanted.
    pub wanted: fn(&[String], &str) -> bool,
    pub filters: Vec<String>,
}

/// A figure that is taken of the samples.
struct View {
    id: &'static str,
    title: &'static str,
    unit: Unit,
    target: Option<f64>,
}

impl View {
    /// The processor's time beside this figure.
    fn with_cpu(self, id: &'static str, title: &'static str) -> [View; 2] {
        let cpu = View {
            id,
            title,
            unit: Unit::CpuPerOperation,
            target: None,
        };
        [self, cpu]
    }
}

/// One of those who do the same.
type Runner = (&'static str, Box<dyn FnMut() -> Sample>);

impl Plan {
    fn wants(&self, views: &[View]) -> bool {
        views
            .iter()
            .any(|view| (self.wanted)(&self.filters, view.id))
    }

    fn count(&self, full: usize) -> usize {
        if self.quick { full / 10 } else { full }
    }

    /// Runs all, one after the other, in rounds, and notes each view of them.
    fn run(&self, report: &mut Report, views: &[View], mut runners: Vec<Runner>) {
        let mut samples = vec![Vec::new(); runners.len()];
        for round in 0..=self.rounds {
            for ((_, run), samples) in runners.iter_mut().zip(&mut samples) {
                let sample = run();
                if round > 0 {
                    samples.push(sample);
                }
            }
        }
        for view in views {
            for ((who, _), samples) in runners.iter().zip(&samples) {
                let figures = samples.iter().map(|sample| {
                    let cpu = view.unit == Unit::CpuPerOperation;
                    view.unit
                        .of_seconds(if cpu { sample.cpu } else { sample.wall })
                });
                report.add(Row::new(
                    view.id,
                    view.title,
                    who,
                    view.unit,
                    Figures::new(figures.collect()),
                    view.target,
                ));
            }
        }
    }
}

fn runner(who: &'static str, mut client: Client, count: usize, in_flight: usize) -> Runner {
    (who, Box::new(move || client(count, in_flight)))
}

fn python(
    report: &mut Report,
    path: &std::path::Path,
    task: &'static str,
    count: usize,
    in_flight: usize,
) -> Option<Runner> {
    match Python::start(path) {
        Ok(mut python) => Some((
            "qemu.qmp (Python)",
            Box::new(move || python.run(task, count, in_flight)),
        )),
        Err(why) => {
            report.leave_out("qemu.qmp (Python)", &why);
            None
        }
    }
}

/// All workloads with a server.
pub fn run(plan: &Plan, report: &mut Report) {
    spice_at_once(plan, report);
    spice_together(plan, report);
    socket_at_once(plan, report);
    qemu(plan, report);
    storms(plan, report);
    readiness(plan, report);
}

/// A SPICE responder with this many ports; none where there is no library for it.
fn spice(report: &mut Report, core: usize, ports: usize) -> Option<(Spice, Server)> {
    match server::spice_responder(core, ports) {
        Ok(server) => {
            let uri = server.spice.as_ref().expect("a SPICE server");
            Some((Spice::connect(uri, ports), server))
        }
        Err(why) => {
            report.leave_out("SPICE with an instant responder", &why);
            None
        }
    }
}

fn spice_at_once(plan: &Plan, report: &mut Report) {
    let views = View {
        id: "spice-seq-instant",
        title: "SPICE, one at a time, instant responder, one core",
        unit: Unit::UsPerOperation,
        target: Some(20.0),
    }
    .with_cpu(
        "spice-seq-instant-cpu",
        "SPICE, one at a time, instant responder: client CPU",
    );
    if !plan.wants(&views) {
        return;
    }
    let Some((session, _server)) = spice(report, CLIENT_CORE, 3) else {
        return;
    };
    let (runners, _) = on_spice(&session, plan.count(20_000), 1);
    plan.run(report, &views, runners);
}

fn spice_together(plan: &Plan, report: &mut Report) {
    let views = View {
        id: "spice-100-instant",
        title: "SPICE, 100 in flight, instant responder, two cores",
        unit: Unit::OperationsPerSecond,
        target: Some(500_000.0),
    }
    .with_cpu(
        "spice-100-instant-cpu",
        "SPICE, 100 in flight, instant responder: client CPU",
    );
    if !plan.wants(&views) {
        return;
    }
    let Some((session, _server)) = spice(report, SERVER_CORE, 3) else {
        return;
    };
    let count = plan.count(100_000);
    let (mut runners, raw) = on_spice(&session, count, 100);
    runners.push(runner("raw channel, batched", raw.ask(true), count, 100));
    plan.run(report, &views, runners);
}

/// Those who speak QMP over SPICE, each on a port of its own; and the last of them.
fn on_spice(session: &Spice, count: usize, in_flight: usize) -> (Vec<Runner>, Rc<clients::Raw>) {
    let ours = clients::ask_ours(clients::ours(session.port(0)));
    let helper = clients::ask_helper(clients::helper(session.port(1)));
    let raw = Rc::new(clients::raw(session.port(2)));
    let runners = vec![
        runner("ours", ours, count, in_flight),
        runner("spice-gtk helper", helper, count, in_flight),
        runner("raw channel", raw.ask(false), count, in_flight),
    ];
    (runners, raw)
}

/// Those who speak QMP on a socket, each on one of its own.
fn on_sockets(
    report: &mut Report,
    sockets: &[PathBuf],
    count: usize,
    in_flight: usize,
) -> Vec<Runner> {
    let ours = clients::ask_ours(clients::ours_on_socket(&sockets[0]));
    let mut runners = vec![
        runner("ours", ours, count, in_flight),
        runner(
            "blocking socket",
            clients::ask_blocking(&sockets[1]),
            count,
            in_flight,
        ),
        runner(
            "qapi-rs (tokio)",
            clients::ask_qapi(&sockets[2]),
            count,
            in_flight,
        ),
    ];
    if in_flight == 1 {
        runners.push(runner("raw GIO", clients::ask_gio(&sockets[3]), count, 1));
    }
    runners.extend(python(report, &sockets[4], "ask", count, in_flight));
    runners
}

fn socket_at_once(plan: &Plan, report: &mut Report) {
    let views = View {
        id: "socket-seq-instant",
        title: "Unix socket, one at a time, instant responder, one core",
        unit: Unit::UsPerOperation,
        target: Some(12.0),
    }
    .with_cpu(
        "socket-seq-instant-cpu",
        "Unix socket, one at a time, instant responder: client CPU",
    );
    if !plan.wants(&views) {
        return;
    }
    let server = server::socket_responder(CLIENT_CORE, 5);
    let runners = on_sockets(report, &server.sockets, plan.count(20_000), 1);
    plan.run(report, &views, runners);
}

fn qemu(plan: &Plan, report: &mut Report) {
    let one = View {
        id: "spice-seq-qemu",
        title: "SPICE, one at a time, QEMU",
        unit: Unit::UsPerOperation,
        target: None,
    }
    .with_cpu(
        "spice-seq-qemu-cpu",
        "SPICE, one at a time, QEMU: client CPU",
    );
    let many = [
        View {
            id: "spice-100-qemu-cpu",
            title: "SPICE, 100 in flight, QEMU: client CPU",
            unit: Unit::CpuPerOperation,
            target: Some(10.0),
        },
        View {
            id: "spice-100-qemu",
            title: "SPICE, 100 in flight, QEMU",
            unit: Unit::OperationsPerSecond,
            target: None,
        },
    ];
    let socket_one = [View {
        id: "socket-seq-qemu",
        title: "Unix socket, one at a time, QEMU",
        unit: Unit::UsPerOperation,
        target: None,
    }];
    let socket_many = [View {
        id: "socket-100-qemu",
        title: "Unix socket, 100 in flight, QEMU",
        unit: Unit::OperationsPerSecond,
        target: None,
    }];
    for (views, in_flight) in [(&one, 1), (&many, 100)] {
        if plan.wants(views) {
            let server = server::qemu(3, 0);
            let session = Spice::connect(server.spice.as_ref().expect("QEMU has SPICE"), 3);
            let count = plan.count(if in_flight == 1 { 5_000 } else { 20_000 });
            let (runners, _) = on_spice(&session, count, in_flight);
            plan.run(report, views, runners);
        }
    }
    for (views, in_flight) in [(&socket_one, 1), (&socket_many, 100)] {
        if plan.wants(views) {
            let server = server::qemu(0, 5);
            let runners = on_sockets(report, &server.sockets, plan.count(5_000), in_flight);
            plan.run(report, views, runners);
        }
    }
}

fn storms(plan: &Plan, report: &mut Report) {
    let view = |id, title, target, cpu, cpu_title| {
        View {
            id,
            title,
            unit: Unit::EventsPerSecond,
            target,
        }
        .with_cpu(cpu, cpu_title)
    };
    let count = plan.count(200_000);
    let lazy = view(
        "storm-spice-lazy",
        "storm of events over SPICE, qmp-event handler",
        Some(2_500_000.0),
        "storm-spice-lazy-cpu",
        "storm of events over SPICE, qmp-event handler: client CPU",
    );
    let node = view(
        "storm-spice-node",
        "storm of events over SPICE, event handler (JsonNode)",
        Some(1_200_000.0),
        "storm-spice-node-cpu",
        "storm of events over SPICE, event handler (JsonNode): client CPU",
    );
    let socket = view(
        "storm-socket",
        "storm of events on a Unix socket, qmp-event handler",
        None,
        "storm-socket-cpu",
        "storm of events on a Unix socket, qmp-event handler: client CPU",
    );
    for (views, signal) in [(&lazy, "qmp-event"), (&node, "event")] {
        if !plan.wants(views) {
            continue;
        }
        let Some((session, _server)) = spice(report, SERVER_CORE, 3) else {
            return;
        };
        let mut ours = clients::storm_ours(clients::ours(session.port(0)), Some(signal));
        let helper = clients::helper(session.port(1));
        let mut helper = clients::storm_helper(helper, session.port(1).clone());
        let raw = clients::raw(session.port(2));
        let request = format!(r#"{{"execute":"bench-storm","arguments":{{"count":{count}}}}}"#);
        let runners: Vec<Runner> = vec![
            ("ours", Box::new(move || ours(count))),
            ("spice-gtk helper", Box::new(move || helper(count))),
            (
                "raw channel",
                Box::new(move || {
                    clients::sample(count, || raw.exchange(request.as_bytes(), count as u64))
                }),
            ),
        ];
        plan.run(report, views, runners);
    }
    if plan.wants(&socket) {
        let server = server::socket_responder(SERVER_CORE, 3);
        let ours = clients::ours_on_socket(&server.sockets[0]);
        let mut ours = clients::storm_ours(ours, Some("qmp-event"));
        let mut qapi = clients::storm_qapi(&server.sockets[1]);
        let mut runners: Vec<Runner> = vec![
            ("ours", Box::new(move || ours(count))),
            ("qapi-rs (tokio)", Box::new(move || qapi(count))),
        ];
        runners.extend(python(report, &server.sockets[2], "storm", count, 1));
        plan.run(report, &socket, runners);
    }
}

/// What happened when on the way to a ready port.
#[derive(Default)]
struct Marks {
    opened: Cell<Option<Instant>>,
    ready: Cell<Option<Instant>>,
    port: RefCell<Option<glib::Object>>,
}

/// How a port is got on a channel: an object with the property `ready`.
type Attach = fn(&PortChannel) -> glib::Object;

fn attach_ours(channel: &PortChannel) -> glib::Object {
    QmpPort::get(channel).upcast()
}

fn attach_helper(channel: &PortChannel) -> glib::Object {
    // SAFETY: the channel is live; the port is the channel's.
    unsafe {
        let port = spice::spice_qmp_port_get(channel.as_ptr().cast());
        glib::translate::from_glib_none(port.cast::<glib::gobject_ffi::GObject>())
    }
}

/// What is taken of a sample.
type Take = fn(&Sample) -> f64;

/// Connects a session until its port is ready: the times from the start, and from
/// the opening of the port, both as one sample.
fn become_ready(uri: &str, attach: Attach) -> Sample {
    let start = Instant::now();
    let session = Spice::connect(uri, 1);
    let channel = session.port(0).clone();
    let marks = Rc::new(Marks::default());
    let seen = marks.clone();
    channel.connect_notify_local(Some("port-opened"), move |channel, _| {
        if !channel.is_port_opened() {
            return;
        }
        seen.opened.set(Some(Instant::now()));
        // As both are got by a viewer that was written for spice-gtk's helper.
        let port = attach(channel);
        let ready = seen.clone();
        port.connect_notify_local(Some("ready"), move |_, _| {
            ready
                .ready
                .get()
                .is_none()
                .then(|| ready.ready.set(Some(Instant::now())));
        });
        seen.port.replace(Some(port));
    });
    channel.upcast_ref::<Channel>().connect();
    until("a ready port", || marks.ready.get().is_some());
    let ready = marks.ready.get().expect("it is");
    let opened = marks.opened.get().expect("first it opens");
    let port = marks.port.take().expect("it is ready");
    if let Some(port) = port.downcast_ref::<QmpPort>() {
        // Nothing is to be under way when the session ends.
        until("the status", || port.status().is_some());
        glib::MainContext::default().block_on(port.close());
    }
    Sample {
        wall: (ready - opened).as_secs_f64(),
        cpu: (ready - start).as_secs_f64(),
    }
}

fn readiness(plan: &Plan, report: &mut Report) {
    let id = "ready";
    if !(plan.wanted)(&plan.filters, id) {
        return;
    }
    let server = match server::spice_responder(SERVER_CORE, 1) {
        Ok(server) => server,
        Err(why) => return report.leave_out("port opened to ready", &why),
    };
    let uri = server.spice.as_ref().expect("a SPICE server");
    let rounds = if plan.quick { 10 } else { 50 };
    let who: [(&str, Attach); 2] = [("ours", attach_ours), ("spice-gtk helper", attach_helper)];
    let samples: RefCell<Vec<[Sample; 2]>> = RefCell::default();
    for _ in 0..rounds {
        let round = who.map(|(_, attach)| become_ready(uri, attach));
        samples.borrow_mut().push(round);
    }
    let samples = samples.take();
    let views: [(&str, &str, Option<f64>, Take); 2] = [
        (
            "ready",
            "port opened to ready, instant responder",
            Some(0.1),
            |it| it.wall,
        ),
        (
            "ready-connect",
            "connect to ready, instant responder",
            None,
            |it| it.cpu,
        ),
    ];
    for (id, title, target, view) in views {
        for (number, (who, _)) in who.iter().enumerate() {
            let figures = samples
                .iter()
                .map(|round| Unit::Ms.of_seconds(view(&round[number])));
            let figures = Figures::new(figures.collect());
            report.add(Row::new(id, title, who, Unit::Ms, figures, target));
        }
    }
}
