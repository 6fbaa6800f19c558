// The node's figures as they come: server-sent events, read by fetch, since EventSource cannot send a token.

import { open } from "./api.js";
import { createParser } from "./vendor/eventsource-parser/parse.js";

/// A sample comes every second. After so long without one the connection is given up.
const SILENCE_MS = 5_000;
const RETRY_MIN_MS = 500;
const RETRY_MAX_MS = 10_000;

/// Follows /api/events for ever.
///
/// `onEvent(name, data)` gets each event. `onState(state)` gets {name: "connecting" | "live" | "waiting", error, retryAt}:
/// why it is not live, if it was or should be, and when it tries again, in terms of performance.now(). `authorize()` is
/// awaited after a 401.
export class Stream {
  #handlers;
  #wake = () => {};

  constructor(handlers) {
    this.#handlers = handlers;
  }

  async run() {
    const { onState, authorize } = this.#handlers;
    let error;
    for (let failures = 0; ; failures += 1) {
      onState({ name: "connecting", error });
      try {
        await this.#read(() => (failures = 0));
        error = new Error("The server closed the connection.");
      } catch (failure) {
        error = failure;
      }
      if (error.status === 401) {
        onState({ name: "waiting", error });
        await authorize();
        continue;
      }
      // Half of the pause is left to chance, lest all pages come back at once.
      const pause = Math.min(RETRY_MAX_MS, RETRY_MIN_MS * 2 ** failures) * (0.5 + Math.random() / 2);
      onState({ name: "waiting", error, retryAt: performance.now() + pause });
      await this.#pause(pause);
    }
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
    const { onEvent, onState } = this.#handlers;
    const abort = new AbortController();
    let timer;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => abort.abort(new Error("The server has gone silent.")), SILENCE_MS);
    };
    const parser = createParser({
      onEvent: ({ event, data }) => {
        alive();
        onAlive();
        onState({ name: "live" });
        onEvent(event, JSON.parse(data));
      },
    });
    alive();
    try {
      const response = await open("/api/events", { signal: abort.signal });
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
