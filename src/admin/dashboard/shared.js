// One stream for all tabs that show the same node: a browser has six connections for a host, for all its tabs together. One
// of them leads: it holds the connection, and passes on what arrives. When it goes, another one leads.
//
// They talk over a BroadcastChannel, which there is over plain HTTP too; Web Locks are for secure contexts alone. Two that
// lead for a moment do no harm: the one with the lower name goes on, and the other gives way as soon as they hear of each
// other.

import { token } from "./api.js";
import { Stream } from "./stream.js";

/// How often who leads says so, and after how long a silence it is taken to be gone. Timers of tabs in the background fire
/// once a second.
const BEAT_MS = 1_000;
const LOST_MS = 3_500;
/// How long a tab waits for an answer before it leads itself; a part is left to chance, so that not all do at once.
const ANSWER_MS = 150;
const CHANCE_MS = 250;
/// The samples that are kept for those who come later.
const HISTORY_SAMPLES = 300;

/// Tabs share what the same token sees, and nobody who does not know it can listen.
const channelName = () => `idalloc ${new URL("api/events", location.href)} ${token.get() ?? ""}`;

/// As a `Stream`, of which it has one while it leads.
export class SharedStream {
  #handlers;
  #stream;
  #name = `${Math.random()}${performance.timeOrigin}`;
  #channel = null;
  #leads = false;
  #leader = null;
  #state = { name: "connecting" };
  #history = [];
  /// Until it leads, as nobody has answered; or until it looks for another, as who led is silent.
  #waiting;
  #beating;

  constructor(handlers) {
    this.#handlers = handlers;
    this.#stream = new Stream({
      onOpen: () => {
        this.#say({ opened: true });
        handlers.onOpen();
      },
      onEvent: (name, data) => {
        this.#keep(name, data);
        this.#say({ event: name, data });
        handlers.onEvent(name, data);
      },
      onState: (state) => {
        if (!this.#leads) return;
        const isNews = state.name !== this.#state.name || state.name !== "live";
        this.#state = state;
        if (isNews) this.#say({ state: portable(state) });
        handlers.onState(state);
      },
      authorize: async () => {
        this.#leave();
        await handlers.authorize();
        this.#join();
      },
    });
    this.#stream.pause();
  }

  run() {
    addEventListener("pagehide", () => this.#leave());
    addEventListener("pageshow", ({ persisted }) => persisted && this.resume());
    this.#join();
    return this.#stream.run();
  }

  /// Lets go of the connection, or of who has it, until it is resumed.
  pause() {
    this.#leave();
    this.#handlers.onState({ name: "paused" });
  }

  resume() {
    if (this.#channel === null) this.#join();
  }

  /// Ends the present pause, if there is one.
  retryNow() {
    if (this.#leads) this.#stream.retryNow();
    else this.#say({ retry: true });
  }

  #join() {
    this.#channel = new BroadcastChannel(channelName());
    this.#channel.onmessage = ({ data }) => this.#hear(data);
    this.#seek();
  }

  #leave() {
    if (this.#leads) this.#say({ gone: true });
    this.#follow(null);
    clearTimeout(this.#waiting);
    this.#channel?.close();
    this.#channel = null;
  }

  /// Asks who leads; if nobody does, it does.
  #seek() {
    this.#leader = null;
    this.#say({ seeking: true });
    this.#wait(ANSWER_MS + Math.random() * CHANCE_MS, () => this.#lead());
  }

  #lead() {
    this.#leads = true;
    this.#say({ leads: true });
    this.#beating = setInterval(() => this.#say({ leads: true }), BEAT_MS);
    this.#stream.resume();
  }

  /// Leaves the connection to another, or to nobody.
  #follow(leader) {
    this.#leads = false;
    this.#leader = leader;
    clearInterval(this.#beating);
    this.#stream.pause();
  }

  #wait(ms, then) {
    clearTimeout(this.#waiting);
    this.#waiting = setTimeout(then, ms);
  }

  #say(message) {
    this.#channel?.postMessage({ from: this.#name, ...message });
  }

  #hear({ from, to, ...message }) {
    if (to !== undefined && to !== this.#name) return;
    if (this.#leads) this.#hearAsLeader(from, message);
    else this.#hearAsFollower(from, message);
  }

  #hearAsLeader(from, { seeking, leads, retry }) {
    if (seeking) this.#say({ to: from, leads: true, state: portable(this.#state), history: this.#history });
    if (retry) this.#stream.retryNow();
    if (!leads) return;
    if (from > this.#name) return this.#say({ leads: true });
    this.#follow(null);
    this.#hearAsFollower(from, { leads });
  }

  #hearAsFollower(from, message) {
    if (message.leads && from !== this.#leader) {
      this.#follow(from);
      // What was before is asked for, unless this is the answer.
      if (message.history === undefined) this.#say({ seeking: true });
    }
    if (from === this.#leader) this.#attend(message);
  }

  /// Takes what the one says that leads.
  #attend({ gone, opened, state, history, event, data }) {
    if (gone) return this.#seek();
    this.#wait(LOST_MS, () => this.#seek());
    const { onOpen, onState, onEvent } = this.#handlers;
    if (opened || history !== undefined) onOpen();
    if (history?.length > 0) onEvent("history", (this.#history = history));
    if (state !== undefined) onState(here(state));
    if (event !== undefined) {
      onState({ name: "live" });
      this.#keep(event, data);
      onEvent(event, data);
    }
  }

  #keep(name, data) {
    const samples = name === "history" ? data : [data];
    const first = samples[0]?.t_ms ?? Infinity;
    this.#history = [...this.#history.filter(({ t_ms }) => t_ms < first), ...samples].slice(-HISTORY_SAMPLES);
  }
}

/// A state as another tab takes it: its clock begins at another time, and errors lose their class.
function portable({ name, error, retryAt }) {
  const retryIn = retryAt === undefined ? undefined : retryAt - performance.now();
  return { name, message: error?.message, retryIn };
}

function here({ name, message, retryIn }) {
  const error = message === undefined ? undefined : new Error(message);
  const retryAt = retryIn === undefined ? undefined : performance.now() + retryIn;
  return { name, error, retryAt };
}
