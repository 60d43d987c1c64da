//! A breakable TCP proxy between a gateway and a server: passes, swallows, or cuts.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    /// Connections are taken and stay open; what comes waits, as in a network that loses everything.
    BlackHole,
    Cut,
}

struct Inside {
    mode: Mode,
    target: String,
    open: Vec<TcpStream>,
}

struct Shared {
    inside: Mutex<Inside>,
    changed: Condvar,
}

/// Passes until told otherwise; nothing gets through before it is aimed. Its threads end when their connections do.
pub(crate) struct Proxy {
    pub(crate) address: String,
    shared: Arc<Shared>,
}

impl Proxy {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let shared = Arc::new(Shared {
            inside: Mutex::new(Inside {
                mode: Mode::BlackHole,
                target: String::new(),
                open: Vec::new(),
            }),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&accepting);
                std::thread::spawn(move || shared.link(stream));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn aim(&self, target: &str) {
        target.clone_into(&mut self.shared.inside().target);
        self.pass();
    }

    pub(crate) fn pass(&self) {
        self.turn(Mode::Pass);
    }

    pub(crate) fn black_hole(&self) {
        self.turn(Mode::BlackHole);
    }

    /// Ends every connection, with what waits in it, and each new one.
    pub(crate) fn cut(&self) {
        self.turn(Mode::Cut);
        for stream in self.shared.inside().open.drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn turn(&self, mode: Mode) {
        self.shared.inside().mode = mode;
        self.shared.changed.notify_all();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Shared {
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether to go on, once it is known.
    fn passes(&self) -> bool {
        let inside = self.inside();
        let inside = self
            .changed
            .wait_while(inside, |inside| inside.mode == Mode::BlackHole)
            .unwrap_or_else(PoisonError::into_inner);
        inside.mode == Mode::Pass
    }

    fn link(self: Arc<Self>, near: TcpStream) {
        self.inside().open.extend(near.try_clone());
        if !self.passes() {
            return;
        }
        let target = self.inside().target.clone();
        // A server that is down refuses, and so does its proxy.
        let Ok(far) = TcpStream::connect(target) else {
            return;
        };
        self.inside().open.extend(far.try_clone());
        let (Ok(back_from), Ok(back_to)) = (far.try_clone(), near.try_clone()) else {
            return;
        };
        let shared = Arc::clone(&self);
        let back = std::thread::spawn(move || shared.pump(back_from, back_to));
        self.pump(near, far);
        back.join().expect("a pump does not panic");
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            if !self.passes() || to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        // Either side may be gone already.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}
