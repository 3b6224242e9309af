//! Control connections: in order, at most once, and at any moment broken for one end or both.

use common::protocol::Fate;

use crate::destination::Session;
use crate::message::Message;

/// What the destination answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The request was met.
    Done,
    /// It was not, and the migration has been undone.
    Refused,
    /// To `Abort`.
    Aborted,
    /// To `Fate`.
    Fate(Fate),
}

/// One connection. TLS over TCP repeats nothing and reorders nothing, so what the faults leave to
/// it is that a beginning of what was sent arrives, late, and the rest does not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Connection {
    /// The source's end is open.
    pub held: bool,
    /// The destination's end, while it is open.
    pub session: Option<Session>,
    /// Nothing that is sent from now on arrives. Neither end has been told.
    pub broken: bool,
    /// On their way to the destination.
    pub requests: Vec<Message>,
    /// On their way to the source.
    pub answers: Vec<Answer>,
}

/// All connections, by a number that is given again when both ends have closed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Network(Vec<Option<Connection>>);

impl Connection {
    /// Whether nothing can come of it any more: both ends are closed, or the source's is and the
    /// destination's has no migration and will not open one. That it may notice so later makes no
    /// difference, and would only multiply the states.
    fn over(&self) -> bool {
        let opens = |message: &Message| matches!(message, Message::Begin(_));
        let idle = match &self.session {
            None => true,
            Some(session) => session.migration.is_none() && !self.requests.iter().any(opens),
        };
        !self.held && idle
    }
}

impl Network {
    /// Opens a connection.
    pub fn connect(&mut self) -> usize {
        let connection = Some(Connection {
            held: true,
            session: Some(Session::default()),
            broken: false,
            requests: Vec::new(),
            answers: Vec::new(),
        });
        match self.0.iter().position(Option::is_none) {
            Some(free) => {
                self.0[free] = connection;
                free
            }
            None => {
                self.0.push(connection);
                self.0.len() - 1
            }
        }
    }

    /// The numbers of the connections that one end at least holds open.
    pub fn numbers(&self) -> impl Iterator<Item = usize> {
        (0..self.0.len()).filter(|number| self.0[*number].is_some())
    }

    /// A connection that one end at least holds open.
    pub fn at(&self, number: usize) -> &Connection {
        self.0[number].as_ref().expect("an open connection")
    }

    /// The same, to change it.
    pub fn at_mut(&mut self, number: usize) -> &mut Connection {
        self.0[number].as_mut().expect("an open connection")
    }

    /// The sessions at the destination.
    pub fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.0.iter().flatten().filter_map(|c| c.session.as_ref())
    }

    /// The source sends.
    pub fn ask(&mut self, number: usize, message: Message) {
        let connection = self.at_mut(number);
        if !connection.broken && connection.session.is_some() {
            connection.requests.push(message);
        }
    }

    /// The destination sends.
    pub fn answer(&mut self, number: usize, answer: Answer) {
        let connection = self.at_mut(number);
        if !connection.broken && connection.held {
            connection.answers.push(answer);
        }
    }

    /// The source closes its end. What is on its way to the destination may still arrive.
    pub fn close(&mut self, number: usize) {
        let connection = self.at_mut(number);
        connection.held = false;
        connection.answers.clear();
        self.forget_closed();
    }

    /// The source's process is gone, and all its ends with it.
    pub fn close_all(&mut self) {
        for connection in self.0.iter_mut().flatten() {
            connection.held = false;
            connection.answers.clear();
        }
        self.forget_closed();
    }

    /// The destination closes its end. What is on its way to the source may still arrive.
    pub fn end(&mut self, number: usize) {
        let connection = self.at_mut(number);
        connection.session = None;
        connection.requests.clear();
        self.forget_closed();
    }

    /// The destination's process is gone, and all its ends with it.
    pub fn end_all(&mut self) {
        for connection in self.0.iter_mut().flatten() {
            connection.session = None;
            connection.requests.clear();
        }
        self.forget_closed();
    }

    fn forget_closed(&mut self) {
        for slot in &mut self.0 {
            if slot.as_ref().is_some_and(Connection::over) {
                *slot = None;
            }
        }
        while self.0.last().is_some_and(Option::is_none) {
            self.0.pop();
        }
    }
}
