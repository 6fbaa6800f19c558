// The node's figures as they come: server-sent events, read by fetch, since EventSource cannot send a token.

import { open } from "./api.js";
import { createParser } from "./vendor/eventsource-parser/parse.js";

/// A sample comes every second. After so long without one the connection is given up.
const SILENCE_MS = 5_000;
const RETRY_MIN_MS = 500;
const RETRY_MAX_MS = 10_000;

/// Follows api/events until it is paused.
///
/// `onOpen()` is called whenever it is live again, before `onEvent(name, data)` gets each event. `onState(state)` gets
/// {name: "connecting" | "live" | "waiting" | "locked" | "paused", error, retryAt}: why it is not live, if it was or should
/// be, and when it tries again, in terms of performance.now(). It is locked after a 401, until `authorize()` is done.
export class Stream {
  #handlers;
  #wake = () => {};
  #abort = null;
  /// While it is paused: what is awaited, and how that ends.
  #resumed = null;
  #resume = () => {};

  constructor(handlers) {
    this.#handlers = handlers;
  }

  async run() {
    const { onState, authorize } = this.#handlers;
    let error;
    for (let failures = 0; ; failures += 1) {
      if (this.#resumed !== null) {
        error = undefined;
        onState({ name: "paused" });
        await this.#resumed;
      }
      onState({ name: "connecting", error });
      try {
        await this.#read(() => (failures = 0));
        error = new Error("The server closed the connection.");
      } catch (failure) {
        error = failure;
      }
      if (this.#resumed !== null) continue;
      if (error.status === 401) {
        // That it is asked for is no trouble, neither now nor when it is given.
        error = undefined;
        onState({ name: "locked" });
        await authorize();
        continue;
      }
      // Half of the pause is left to chance, so that not all pages come back at once.
      const pause = Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** failures) * (0.5 + Math.random() / 2);
      onState({ name: "waiting", error, retryAt: performance.now() + pause });
      await this.#pause(pause);
    }
  }

  /// Lets go of the connection until it is resumed.
  pause() {
    if (this.#resumed !== null) return;
    this.#resumed = new Promise((resolve) => (this.#resume = resolve));
    this.#abort?.abort(new Error("Nobody looks on."));
    this.#wake();
  }

  resume() {
    this.#resumed = null;
    this.#resume();
    this.#wake();
  }

  /// Ends the present pause, if there is one.
  retryNow() {
    this.#wake();
  }

  #pause(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  /// Returns when the stream ends.
  async #read(onAlive) {
    const { onOpen, onEvent, onState } = this.#handlers;
    const abort = new AbortController();
    this.#abort = abort;
    let timer;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => abort.abort(new Error("The server has gone silent.")), SILENCE_MS);
    };
    const parser = createParser({
      // The server's heart beats, though it has no sample.
      onComment: alive,
      onEvent: ({ event, data }) => {
        alive();
        onAlive();
        onState({ name: "live" });
        onEvent(event, JSON.parse(data));
      },
    });
    alive();
    try {
      const response = await open("api/events", { signal: abort.signal });
      onOpen();
      for await (const text of chunks(response.body)) parser.feed(text);
    } catch (error) {
      throw abort.signal.aborted ? abort.signal.reason : error;
    } finally {
      clearTimeout(timer);
      abort.abort();
    }
  }
}

/// The text of a body, as it arrives. A reader and not `for await` over the stream, which some browsers lack.
async function* chunks(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}
