//! One worker: its connections, its buffers and its clock.

use std::cell::{Cell, RefCell};
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_utils::CachePadded;
use slab::Slab;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};

use super::connection::{Buffers, Connection};
use super::{Slot, TICK};
use crate::config::EngineLimits;
use crate::http::buffer_memory::BufferMemory;
use crate::http::counters::WorkerCounters;
use crate::http::exchange::Exchange;
use crate::http::handler::{Handler, Service};

/// How long an idle connection stays open when the server listens no more, so that a request that is on its way gets an answer.
const DRAIN_IDLE: Duration = Duration::from_millis(300);
/// Pairs of buffers that are kept when there is no rush.
const SPARE_BUFFERS_KEPT: usize = 4;
/// How often a worker looks whether a rush is over: every second.
const TICKS_PER_LOOK: u32 = 20;
/// Between two looks, so many turns, arrivals and departures of connections at most are no rush.
const QUIET_EVENTS_MAX: u32 = 100;
/// The most pairs of buffers that are kept for the next connection in need.
const SPARE_BUFFERS_MAX: usize = 64;

/// What the worker's connections share.
pub(super) struct Worker {
    pub exchange: RefCell<Exchange>,
    pub limits: EngineLimits,
    /// Gives the system back what the global allocator holds and does not need.
    trim: fn(),
    pub memory: Arc<BufferMemory>,
    pub service: Arc<Service>,
    pub counters: Arc<CachePadded<WorkerCounters>>,
    /// Nobody can connect any more.
    is_ending: Cell<bool>,
    open: Arc<AtomicUsize>,
    spare_buffers: RefCell<Vec<Buffers>>,
    watches: RefCell<Slab<Rc<Watch>>>,
    rush: Rush,
    started: Instant,
    /// Time since `started` at the last tick.
    now: Cell<Duration>,
}

/// What the sweep knows of one connection.
pub(super) struct Watch {
    /// When the present phase must be over, on the worker's clock.
    deadline: Cell<Duration>,
    /// Until when it may be idle, if it is. The deadline may be earlier: that of a look at what it does.
    idle_until: Cell<Option<Duration>>,
    expired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Watch {
    /// Whether the deadline is over; if not, the sweep wakes `waker` when it is.
    pub fn poll_expired(&self, waker: &Waker) -> bool {
        if self.expired.get() {
            return true;
        }
        let mut registered = self.waker.borrow_mut();
        if !registered.as_ref().is_some_and(|known| known.will_wake(waker)) {
            *registered = Some(waker.clone());
        }
        false
    }

    /// Whether the deadline is over.
    pub fn is_expired(&self) -> bool {
        self.expired.get()
    }

    pub fn is_idle(&self) -> bool {
        self.idle_until.get().is_some()
    }

    pub fn deadline(&self) -> Duration {
        self.deadline.get()
    }

    /// Sets a deadline; whether another one was over does not matter any more.
    pub fn set_deadline(&self, deadline: Duration) {
        self.deadline.set(deadline);
        self.expired.set(false);
    }

    fn expire(&self) {
        self.expired.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Tells when much was going on, and then was not.
#[derive(Default)]
struct Rush {
    /// Turns, arrivals and departures of connections since the last look.
    events: Cell<u32>,
    ticks: Cell<u32>,
    on: Cell<bool>,
}

impl Rush {
    fn note(&self) {
        self.events.set(self.events.get().saturating_add(1));
    }

    /// True once after each rush. To be asked every tick.
    fn is_over(&self) -> bool {
        self.ticks.set(self.ticks.get() + 1);
        if self.ticks.get() < TICKS_PER_LOOK {
            return false;
        }
        self.ticks.set(0);
        let is_on = self.events.take() > QUIET_EVENTS_MAX;
        self.on.replace(is_on) && !is_on
    }
}

impl Worker {
    pub fn new(
        handler: Handler,
        limits: EngineLimits,
        trim: fn(),
        memory: Arc<BufferMemory>,
        open: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            service: handler.service().clone(),
            counters: handler.counters().clone(),
            exchange: RefCell::new(Exchange::new(handler)),
            limits,
            trim,
            memory,
            is_ending: Cell::default(),
            open,
            spare_buffers: RefCell::default(),
            watches: RefCell::default(),
            rush: Rush::default(),
            started: Instant::now(),
            now: Cell::default(),
        }
    }

    /// Serves the connections that arrive until no more can, then drains the rest.
    pub async fn run(self, arrivals: &mut mpsc::UnboundedReceiver<TcpStream>) {
        let worker = Rc::new(self);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                arrival = arrivals.recv() => match arrival {
                    Some(stream) => worker.clone().adopt(stream),
                    None => break,
                },
                _ = ticks.tick() => worker.tick(),
            }
        }
        worker.drain(ticks).await;
    }

    async fn drain(&self, mut ticks: tokio::time::Interval) {
        self.is_ending.set(true);
        self.tick();
        for (_, watch) in self.watches.borrow().iter() {
            if let Some(until) = watch.idle_until.get() {
                let until = until.min(self.deadline_after(DRAIN_IDLE));
                watch.idle_until.set(Some(until));
                watch.deadline.set(watch.deadline.get().min(until));
            }
        }
        while !self.watches.borrow().is_empty() {
            ticks.tick().await;
            self.tick();
        }
    }

    fn adopt(self: Rc<Self>, stream: TcpStream) {
        let slot = Slot(self.open.clone());
        self.rush.note();
        let stream = stream
            .set_nonblocking(true)
            .and_then(|()| stream.set_nodelay(true))
            .and_then(|()| tokio::net::TcpStream::from_std(stream));
        // An error here means that the client is gone already.
        if let Ok(stream) = stream {
            // Made here and not in the task, so that a drain that begins now knows of it.
            tokio::task::spawn_local(Connection::new(stream, self, slot).run());
        }
    }

    /// Moves the clock, and tells every connection whose deadline is over.
    fn tick(&self) {
        self.now.set(self.started.elapsed());
        self.exchange.borrow_mut().set_date(SystemTime::now());
        self.memory.look();
        if self.rush.is_over() {
            self.spare_buffers.borrow_mut().truncate(SPARE_BUFFERS_KEPT);
            (self.trim)();
        }
        if self.exchange.borrow_mut().handler().forget_gone() {
            (self.trim)();
        }
        for (_, watch) in self.watches.borrow().iter() {
            if watch.deadline.get() <= self.now.get() {
                watch.expire();
            }
        }
    }

    /// The clock is late by up to a tick, and a deadline must not be early.
    fn deadline_after(&self, limit: Duration) -> Duration {
        self.now.get() + limit + TICK
    }

    // ---- for connections ----

    /// The time on the clock that deadlines are set by.
    pub fn now(&self) -> Duration {
        self.now.get()
    }

    pub fn is_draining(&self) -> bool {
        self.service.is_draining()
    }

    pub fn watch(&self) -> (usize, Rc<Watch>) {
        let watch = Rc::new(Watch {
            deadline: Cell::new(Duration::MAX),
            idle_until: Cell::new(None),
            expired: Cell::new(false),
            waker: RefCell::default(),
        });
        (self.watches.borrow_mut().insert(watch.clone()), watch)
    }

    pub fn unwatch(&self, key: usize) {
        self.rush.note();
        self.watches.borrow_mut().remove(key);
    }

    /// The connection waits for the first byte of a request.
    pub fn begin_idle(&self, watch: &Watch) {
        let limit = if self.is_ending.get() { DRAIN_IDLE } else { self.limits.idle_timeout };
        watch.idle_until.set(Some(self.deadline_after(limit)));
        watch.set_deadline(self.deadline_after(limit.min(self.limits.write_timeout)));
    }

    /// The connection goes on being idle, and is looked at again when it must be over, or, if it has not `taken_all` that
    /// it was sent, within the write timeout. False when it is over.
    pub fn remain_idle(&self, watch: &Watch, taken_all: bool) -> bool {
        let Some(until) = watch.idle_until.get().filter(|until| *until > self.now.get()) else {
            return false;
        };
        let look = if taken_all { until } else { until.min(self.deadline_after(self.limits.write_timeout)) };
        watch.set_deadline(look);
        true
    }

    /// The connection does something that must be over within `limit`.
    pub fn begin(&self, watch: &Watch, limit: Duration) {
        watch.idle_until.set(None);
        watch.set_deadline(self.deadline_after(limit));
    }

    /// The connection is at work: it does not wait for its client.
    pub fn begin_busy(&self, watch: &Watch) {
        watch.idle_until.set(None);
        watch.set_deadline(Duration::MAX);
    }

    pub fn lend_buffers(&self) -> Buffers {
        self.rush.note();
        self.spare_buffers.borrow_mut().pop().unwrap_or_default()
    }

    pub fn take_back(&self, mut buffers: Buffers) {
        let mut spare = self.spare_buffers.borrow_mut();
        if spare.len() < SPARE_BUFFERS_MAX && buffers.reset() {
            spare.push(buffers);
        }
    }
}
