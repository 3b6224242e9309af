//! Control connections: messages arrive in order and at most once, and either end may lose the
//! connection at any moment.

use common::protocol::Fate;

use crate::destination::Session;
use crate::message::Message;

/// What the destination answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The request was met.
    Done,
    /// The request was refused, and the migration has been undone.
    Refused,
    /// The answer to `Abort`.
    Aborted,
    /// The answer to `Fate`.
    Fate(Fate),
}

/// One connection. TLS over TCP neither repeats nor reorders anything. So all that faults can do is
/// that only the beginning of what was sent arrives, late, and the rest does not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Connection {
    /// The source's end is open.
    pub held: bool,
    /// The destination's end, while it is open.
    pub session: Option<Session>,
    /// Nothing that is sent from now on arrives. Neither end knows.
    pub broken: bool,
    /// On the way to the destination.
    pub requests: Vec<Message>,
    /// On the way to the source.
    pub answers: Vec<Answer>,
}

/// All connections, by a number that is reused when both ends have closed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Network(Vec<Option<Connection>>);

impl Connection {
    /// Whether nothing can come of it any more: both ends are closed, or the source's is, and the
    /// destination's has no migration and will not open one. If it noticed only later, that would
    /// make no difference, but would multiply the states.
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

    /// The numbers of the connections that at least one end holds open.
    pub fn numbers(&self) -> impl Iterator<Item = usize> {
        (0..self.0.len()).filter(|number| self.0[*number].is_some())
    }

    /// A connection that at least one end holds open.
    pub fn at(&self, number: usize) -> &Connection {
        self.0[number].as_ref().expect("an open connection")
    }

    /// The same, mutable.
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

    /// The source closes its end. What it has already sent may still arrive.
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

    /// The destination closes its end. What it has already sent may still arrive.
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
