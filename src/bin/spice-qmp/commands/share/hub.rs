// SPDX-License-Identifier: MIT OR Apache-2.0
//! Passes the commands of many clients to one monitor, and answers and events back.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::time::Duration;

use gio::prelude::IsA;
use spice_qmp::qmp::limits::MAX_IN_FLIGHT;
use spice_qmp::qmp::{Band, Greeting, Request};
use spice_qmp::{CallOptions, Error, ErrorClass, Event, QmpPort, QmpServer, UsageError};

/// A monitor, and the clients that share it.
///
/// No client's id reaches the monitor: each answer goes to the request that it is
/// for. In-band commands are taken from the clients in turn.
pub(super) struct Hub {
    port: QmpPort,
    greeting: Greeting,
    clients: RefCell<Vec<Rc<Client>>>,
    /// The client whose turn it is.
    turn: Cell<usize>,
    /// How many in-band commands the monitor has not answered.
    in_flight: Cell<usize>,
    negotiation: Duration,
}

struct Client {
    server: QmpServer,
    /// Requests that have not been sent to the monitor.
    queue: RefCell<VecDeque<Request>>,
}

/// A program that connects repeatedly would use up the tool's descriptors and memory.
/// One client more than this replaces the first one that has not negotiated; if
/// all have, it is refused.
pub(super) const MAX_CLIENTS: usize = 64;

/// A client that sends an endless message would fill the tool's memory, as would many
/// clients with eight messages each at the library's limit: a longer message is refused.
pub(super) const MAX_REQUEST: usize = 1 << 20;

/// Commands that need a descriptor, which cannot be passed on.
const WITH_DESCRIPTORS: [&str; 2] = ["add-fd", "getfd"];

impl Hub {
    /// A hub whose clients have `negotiation` to negotiate.
    pub(super) fn new(port: &QmpPort, greeting: Greeting, negotiation: Duration) -> Rc<Self> {
        let hub = Rc::new(Self {
            port: port.clone(),
            greeting,
            clients: RefCell::default(),
            turn: Cell::new(0),
            in_flight: Cell::new(0),
            negotiation,
        });
        let weak = Rc::downgrade(&hub);
        port.connect_qmp_event(None, move |_, event| {
            if let Some(hub) = weak.upgrade() {
                hub.event(event);
            }
        });
        hub
    }

    /// Serves a client until it has disconnected.
    pub(super) async fn serve(self: &Rc<Self>, stream: &impl IsA<gio::IOStream>) {
        if self.has_room() {
            self.attend(QmpServer::new(stream, &self.greeting)).await;
        }
    }

    async fn attend(self: &Rc<Self>, server: QmpServer) {
        let client = Rc::new(Client {
            server,
            queue: RefCell::default(),
        });
        client.server.set_max_message_size(MAX_REQUEST);
        self.clients.borrow_mut().push(client.clone());
        let weak = Rc::downgrade(&client);
        glib::timeout_add_local_once(self.negotiation, move || {
            if let Some(client) = weak.upgrade()
                && !client.server.is_negotiated()
            {
                client.server.close();
            }
        });
        while let Some(request) = client.server.next().await {
            self.take(&client, request);
        }
        let mut clients = self.clients.borrow_mut();
        clients.retain(|it| !Rc::ptr_eq(it, &client));
    }

    /// Whether there is room for one more client, or can be made.
    fn has_room(&self) -> bool {
        let mut clients = self.clients.borrow_mut();
        if clients.len() < MAX_CLIENTS {
            return true;
        }
        let mute = clients.iter().position(|it| !it.server.is_negotiated());
        let Some(mute) = mute.map(|at| clients.remove(at)) else {
            return false;
        };
        drop(clients);
        mute.server.close();
        true
    }

    /// Disconnects the clients, once each has read what it was sent, or after a second.
    pub(super) async fn finish(&self) {
        let clients = self.clients.take();
        let finish = async {
            for client in &clients {
                client.server.finish().await;
            }
        };
        // All have been disconnected then.
        let _ = glib::future_with_timeout(Duration::from_secs(1), finish).await;
    }

    fn take(self: &Rc<Self>, client: &Rc<Client>, request: Request) {
        let command = request.command();
        if WITH_DESCRIPTORS.contains(&command) {
            let desc = format!("{command}: file descriptors cannot be passed to a shared monitor");
            client
                .server
                .refuse(request.number(), &ErrorClass::Generic, &desc);
        } else if request.band() == Band::Out {
            self.execute(client, request);
        } else {
            client.queue.borrow_mut().push_back(request);
            self.go_on();
        }
    }

    /// Passes on as many requests as the monitor can take.
    fn go_on(self: &Rc<Self>) {
        while self.in_flight.get() < MAX_IN_FLIGHT
            && let Some((client, request)) = self.next()
        {
            self.in_flight.set(self.in_flight.get() + 1);
            self.execute(&client, request);
        }
    }

    /// A request of the client whose turn it is.
    fn next(&self) -> Option<(Rc<Client>, Request)> {
        let clients = self.clients.borrow();
        let count = clients.len();
        for step in 0..count {
            let at = (self.turn.get() + step) % count;
            let request = clients[at].queue.borrow_mut().pop_front();
            if let Some(request) = request {
                self.turn.set(at + 1);
                return Some((clients[at].clone(), request));
            }
        }
        None
    }

    fn execute(self: &Rc<Self>, client: &Rc<Client>, request: Request) {
        let options = CallOptions {
            band: request.band(),
            ..CallOptions::default()
        };
        let (hub, client) = (Rc::downgrade(self), Rc::downgrade(client));
        let (command, arguments) = (request.command().to_owned(), request.arguments());
        let arguments = arguments.map(str::to_owned);
        self.port
            .execute_with(&command, arguments.as_deref(), options, move |result| {
                answered(&hub, &client, &request, result);
            });
    }

    fn event(&self, event: &Event) {
        for client in &*self.clients.borrow() {
            // It arrived as an event, so it can be sent as one.
            let _ = client
                .server
                .event_at(event.name(), event.data(), event.timestamp());
        }
    }
}

/// The monitor has answered, or never will.
fn answered(
    hub: &Weak<Hub>,
    client: &Weak<Client>,
    request: &Request,
    result: Result<String, Error>,
) {
    if let Some(client) = client.upgrade() {
        answer(&client.server, request, result);
    }
    if let Some(hub) = hub.upgrade()
        && request.band() == Band::In
    {
        hub.in_flight.set(hub.in_flight.get() - 1);
        hub.go_on();
    }
}

fn answer(server: &QmpServer, request: &Request, result: Result<String, Error>) {
    let number = request.number();
    let (class, desc) = match result {
        Ok(value) => {
            // The library has parsed the answer, so it is valid JSON.
            let _ = server.reply(number, &value);
            return;
        }
        // The connection has ended, and the client's will, too: the request stays unanswered.
        Err(Error::Closed(_)) => return,
        Err(Error::Command { class, desc, .. }) => (class, desc.into()),
        // Everything but the name was checked before.
        Err(Error::Usage(UsageError::InvalidArgument(_))) => {
            let desc = format!("The command {} has not been found", request.command());
            (ErrorClass::CommandNotFound, desc)
        }
        Err(error) => (ErrorClass::Generic, error.to_string()),
    };
    server.refuse(number, &class, &desc);
}

#[cfg(test)]
mod tests;
